package source

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
)

// noise is a text that can't be compressed much.
func noise(t *testing.T, bytes int) string {
	t.Helper()
	b := make([]byte, bytes)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestGitObjects pins many large commits. Commits without a tree leave nothing behind, and two
// commits fetch once what they have in common.
func TestGitObjects(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	r := newRemote(t)
	r.git("config", "core.compression", "0")
	r.commit("same", noise(t, size))
	dir := t.TempDir()
	g := newGit(t, GitOptions{URL: "file://" + r.dir, Dir: dir, Refresh: time.Nanosecond})
	for i := range 12 {
		r.commit("large", noise(t, size))
		before := cachedir.Usage(g.objects())
		got, err := g.Pin(t.Context(), Latest)
		if err != nil {
			t.Fatal(err)
		}
		if grown := cachedir.Usage(g.objects()) - before; i > 0 && grown > size*3/2 {
			t.Errorf("commit %d brings %d bytes, of which %d are new", i, grown, size)
		}
		if text := read(t, got.Path+"/large"); len(text) != size {
			t.Errorf("the file has %d bytes", len(text))
		}
	}
	// The trees that are kept have a file each and one in common.
	if usage := cachedir.Usage(g.objects()); usage > 2*(defaultKeep+2)*size+tidyBytes {
		t.Errorf("objects take %d bytes", usage)
	}
	if got, err := g.Pin(t.Context(), r.git("rev-parse", "main~9")); err != nil ||
		len(read(t, got.Path+"/large")) != size {
		t.Errorf("Pin of a commit whose objects are gone = %+v, %v", got, err)
	}
}

// TestGitTooLarge chooses a commit that is too large: to fetch, or when it is written.
func TestGitTooLarge(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.git("config", "uploadpack.allowFilter", "true")
	small := r.git("rev-parse", "HEAD")
	for name, content := range map[string]string{
		"what is fetched":   noise(t, 20<<20),
		"what that becomes": strings.Repeat("x", 32<<20),
	} {
		r.git("reset", "--quiet", "--hard", small)
		r.commit("large", content)
		r.git("gc", "--quiet")
		g := newGit(t, GitOptions{URL: "file://" + r.dir, MaxBytes: 8 << 20, Refresh: time.Hour})
		refused := (*NotAllowedError)(nil)
		if _, err := g.Pin(t.Context(), Latest); !errors.As(err, &refused) ||
			!strings.Contains(err.Error(), "8MiB (cachesize)") {
			t.Errorf("%s is too large, and Pin = %v", name, err)
		}
		if usage := cachedir.Usage(g.Dir()); usage > 1<<20 {
			t.Errorf("%s: %d bytes are left", name, usage)
		}
		if _, err := g.Pin(t.Context(), small); err != nil {
			t.Errorf("%s: Pin of a small commit = %v", name, err)
		}
	}
}

// TestParts removes sets of all kinds, oldest first, until the rest fits. Sets that are held stay,
// and removed ones can be had again.
func TestParts(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	r := newRemote(t)
	_, options := newMirror(t)
	c := channel(t, options)
	origin := t.TempDir()
	write(t, origin+"/default.nix", noise(t, size))
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.git("config", "uploadpack.allowFilter", "true")
	g := newGit(t, GitOptions{URL: "file://" + r.dir, Refresh: time.Hour})
	v := NewVariants(g, nil, map[string]Source{"channel": c, "path": p}, nil)
	grown := 0
	b := cachedir.NewBound(size / 2)
	b.Add(v.Parts(func() { grown++ })...)
	var trees []string
	for range 3 {
		r.commit("large", noise(t, size))
		pinned, err := v.Pin(t.Context(), r.git("rev-parse", "main"))
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, pinned.Path)
	}
	if grown != 8 {
		t.Errorf("three commits and their history, a channel and a path have grown %d times", grown)
	}
	release, err := g.Lease(t.Context(), Pinned{Revision: filepath.Base(filepath.Dir(trees[0]))})
	if err != nil {
		t.Fatal(err)
	}
	if b.Shrink() {
		t.Error("it fits though a tree is held that is larger")
	}
	left := slices.DeleteFunc(
		slices.Clone(trees), func(tree string) bool { _, err := os.Stat(tree); return err != nil },
	)
	if !slices.Equal(left, trees[:1]) {
		t.Errorf("%q is left, want what is held of %q", left, trees)
	}
	release()
	if !b.Shrink() {
		t.Error("it does not fit though nothing is held")
	}
	pinned, err := v.Pin(t.Context(), r.git("rev-parse", "main~2")) // its history is gone, too
	if err != nil {
		t.Fatal(err)
	}
	if release, err = v.Lease(t.Context(), pinned); err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, file := range []string{
		pinned.Path + "/large", pinned.NixPath["path"] + "/default.nix", pinned.NixPath["channel"] + "/pkgs/run.sh",
	} {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
}
