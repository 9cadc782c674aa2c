package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An edit writes only what has changed, unless somebody reads the last tree.
func TestPathEditCostsWhatChanged(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/default.nix", "old")
	write(t, origin+"/a/b/same.nix", "same")
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	before := pin(t, p)
	inodes := func(tree string) string {
		return fmt.Sprint(inode(t, tree), inode(t, tree+"/a"), inode(t, tree+"/a/b"), inode(t, tree+"/a/b/same.nix"))
	}
	was := inodes(before.Path)
	write(t, origin+"/default.nix", "new")
	after := pin(t, p)
	if now := inodes(after.Path); now != was {
		t.Errorf("after an edit of one file, directories have inodes %s, had %s", now, was)
	}
	if got := read(t, after.Path+"/default.nix"); got != "new" {
		t.Errorf("the edited file holds %q", got)
	}
	release, err := p.Lease(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	write(t, origin+"/default.nix", "newer")
	if now := inodes(pin(t, p).Path); now == was {
		t.Error("a tree that somebody holds was changed")
	}
	if got := read(t, after.Path+"/default.nix"); got != "new" {
		t.Errorf("the tree that somebody holds says %q", got)
	}
}

// sets are edits of each kind, each of the one before.
var sets = []func(dir string) error{
	func(d string) error { return os.WriteFile(d+"/x", []byte("file"), 0o644) },
	func(d string) error { return errors.Join(os.Remove(d+"/x"), os.Mkdir(d+"/x", 0o755)) },
	func(d string) error {
		return errors.Join(
			os.MkdirAll(d+"/x/y/z", 0o755), os.WriteFile(d+"/x/y/z/f", []byte("deep"), 0o644),
			os.WriteFile(d+"/x.y", nil, 0o644),
		)
	},
	func(d string) error { return errors.Join(os.RemoveAll(d+"/x"), os.Symlink("default.nix", d+"/x")) },
	func(d string) error {
		return errors.Join(
			os.Remove(d+"/x"), os.WriteFile(d+"/x", []byte("default.nix"), 0o644),
		) // hashes as the link did
	},
	func(d string) error { return os.Chmod(d+"/x", 0o755) },
	func(d string) error { return errors.Join(os.Remove(d+"/x"), os.Mkdir(d+"/x", 0o755)) },
}

// Every stored revision can be had again as it was, after later edits and after a restart.
func TestPathOldRevisions(t *testing.T) {
	origin, copies := t.TempDir(), t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	write(t, origin+"/same/x.nix", "same")
	p, err := NewPath(NewWatches(), origin, copies, len(sets)+1)
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]map[string]string)
	first := pin(t, p)
	known[first.Revision] = contentOf(t, first.Path)
	for i, edit := range sets {
		if err := edit(origin); err != nil {
			t.Fatal(err)
		}
		now := pin(t, p)
		known[now.Revision] = contentOf(t, now.Path)
		if want := contentOf(t, origin); !maps.Equal(known[now.Revision], want) {
			t.Errorf("after edit %d, the copy has %q, want %q", i, known[now.Revision], want)
		}
	}
	restarted, err := NewPath(NewWatches(), origin, copies, len(sets)+1)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*Path{"the same process": p, "another process": restarted} {
		for revision, want := range known {
			old, err := p.Pin(t.Context(), revision)
			if err != nil {
				t.Errorf("in %s, Pin of an old revision: %v", name, err)
				continue
			}
			if got := contentOf(t, old.Path); !maps.Equal(got, want) {
				t.Errorf("in %s, an old revision has %q, want %q", name, got, want)
			}
		}
	}
	trees, err := filepath.Glob(copies + "/*/trees/*/" + treeName)
	if err != nil || len(trees) > readyTrees {
		t.Errorf("%d trees are there (%v), want %d at most", len(trees), err, readyTrees)
	}
}

// Asking for an older revision does not take the newest one's tree.
func TestPathOldRevisionBesideTheNewest(t *testing.T) {
	origin := t.TempDir()
	var revisions []Pinned
	write(t, origin+"/default.nix", "")
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		write(t, origin+"/default.nix", fmt.Sprint(i))
		revisions = append(revisions, pin(t, p))
	}
	newest := inode(t, revisions[2].Path)
	for range 2 {
		for _, old := range revisions[:2] {
			if _, err := p.Pin(t.Context(), old.Revision); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(revisions[2].Path); err != nil || inode(t, revisions[2].Path) != newest {
				t.Fatalf("the newest tree was taken: %v", err)
			}
			pin(t, p)
		}
	}
}

// Contents that no revision has are removed.
func TestPathForgets(t *testing.T) {
	origin, copies := t.TempDir(), t.TempDir()
	for i := range 200 {
		write(t, fmt.Sprintf("%s/same/%d", origin, i), fmt.Sprint(i))
	}
	write(t, origin+"/default.nix", "")
	p, err := NewPath(NewWatches(), origin, copies, 0)
	if err != nil {
		t.Fatal(err)
	}
	kept := func() int {
		found, err := filepath.Glob(copies + "/*/contents/*/*")
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	const edits = 40
	for i := range edits {
		write(t, origin+"/default.nix", fmt.Sprint("edit ", i))
		pin(t, p)
	}
	// One content in each of the revisions, and as many as may be added before the contents are
	// searched.
	if most := 200 + defaultKeep + 200/sweepShare + 1; kept() > most {
		t.Errorf("after %d edits, %d contents are kept, want %d at most", edits, kept(), most)
	}
	// One that is large is not kept until there are many.
	write(t, origin+"/large", strings.Repeat("x", sweepBytes))
	pin(t, p)
	for i := range defaultKeep + 1 {
		write(t, origin+"/large", strings.Repeat("x", sweepBytes)+fmt.Sprint(i))
		pin(t, p)
	}
	size := 0
	for _, revision := range p.kept.used() {
		files, err := p.kept.files(revision)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.Rel == "large" {
				size++
			}
		}
	}
	large, err := filepath.Glob(copies + "/*/contents/*/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range large {
		if info, err := os.Stat(name); err == nil && info.Size() >= sweepBytes {
			n++
		}
	}
	if n != size {
		t.Errorf("%d large contents are kept of %d revisions", n, size)
	}
}

// Removing any part of the cache directory by hand costs nothing but time.
func TestPathIsTidiedUp(t *testing.T) {
	origin, copies := t.TempDir(), t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	write(t, origin+"/sub/x.nix", "x")
	for _, gone := range []string{
		"contents/*/*", "trees/*", "trees/*/tree", "trees/*/files", "trees/*/lock", "*/*", "contents", "",
	} {
		p, err := NewPath(NewWatches(), origin, copies, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			write(t, origin+"/default.nix", fmt.Sprintf("{ } # %s %d", gone, i))
			pinned := pin(t, p)
			if got, want := contentOf(t, pinned.Path), contentOf(t, origin); !maps.Equal(got, want) {
				t.Errorf("%s: the copy has %q, want %q", gone, got, want)
			}
			names, err := filepath.Glob(filepath.Join(copies, "*", gone))
			if err != nil || len(names) == 0 {
				t.Fatalf("%s: %q, %v", gone, names, err)
			}
			for _, name := range names {
				if err := os.RemoveAll(name); err != nil {
					t.Fatal(err)
				}
			}
			if gone == "" {
				break // made when a registry starts
			}
			p.started = time.Time{}
			if again := pin(t, p); again.Revision != pinned.Revision ||
				!maps.Equal(contentOf(t, again.Path), contentOf(t, origin)) {
				t.Errorf("%s: Pin = %+v with %q", gone, again, contentOf(t, again.Path))
			}
		}
	}
}

// Files whose links reach the file system's limit are copied.
func TestPathOfManyEqualFiles(t *testing.T) {
	origin, copies := t.TempDir(), t.TempDir()
	write(t, origin+"/default.nix", "equal")
	p, err := NewPath(NewWatches(), origin, copies, 0)
	if err != nil {
		t.Fatal(err)
	}
	pinned := pin(t, p)
	for i := range 70_000 { // ext4 permits 65,000
		if err := os.Link(pinned.Path+"/default.nix", fmt.Sprintf("%s/%d", copies, i)); errors.Is(err, syscall.EMLINK) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	write(t, origin+"/another.nix", "equal")
	if got := contentOf(t, pin(t, p).Path); !maps.Equal(got, contentOf(t, origin)) {
		t.Errorf("the copy has %q", got)
	}
}

const editor = "SOURCE_TEST_EDITOR"

// TestPathKilled kills processes that pin edits, at any moment. Everything that is there afterwards
// is whole.
func TestPathKilled(t *testing.T) {
	if dirs := os.Getenv(editor); dirs != "" {
		edit(t, filepath.SplitList(dirs))
	}
	origin, copies := t.TempDir(), t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	for i := range 300 {
		write(t, fmt.Sprintf("%s/%d/x.nix", origin, i), fmt.Sprint(i))
	}
	const kills = 20
	seen := make(map[string]bool)
	for range kills {
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPathKilled$")
		command.Env = append(os.Environ(), editor+"="+origin+string(filepath.ListSeparator)+copies)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+rand.IntN(200)) * time.Millisecond)
		_ = command.Process.Kill()
		_ = command.Wait()

		p, err := NewPath(NewWatches(), origin, copies, 0)
		if err != nil {
			t.Fatal(err)
		}
		pinned := pin(t, p)
		if got, want := contentOf(t, pinned.Path), contentOf(t, origin); !maps.Equal(got, want) {
			t.Fatalf("after a kill, the copy has %q, want %q", got, want)
		}
		for _, revision := range p.kept.used() {
			seen[revision] = true
			old, err := p.Pin(t.Context(), revision)
			if err != nil {
				t.Fatalf("after a kill, Pin of an old revision: %v", err)
			}
			if got := revisionOf(t, old.Path); got != revision {
				t.Fatalf("after a kill, revision %s has the files of %s", revision, got)
			}
		}
	}
	if len(seen) < kills/2 { // on a busy machine, some are killed before they make one
		t.Errorf("%d revisions were made", len(seen))
	}
}

// revisionOf reads all files of a tree.
func revisionOf(t *testing.T, tree string) string {
	t.Helper()
	files, err := walk(t.Context(), tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		if !f.isDir() {
			files[i].hash = sha256.Sum256([]byte(read(t, filepath.Join(tree, f.Rel))))
		}
	}
	return hashOf(files)
}

// edit edits a set and pins it until it is killed.
func edit(t *testing.T, dirs []string) {
	origin, copies := dirs[0], dirs[1]
	p, err := NewPath(NewWatches(), origin, copies, 0)
	if err != nil {
		t.Fatal(err)
	}
	for {
		for range 20 {
			name := fmt.Sprintf("%s/%d", origin, rand.IntN(300))
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
			switch rand.IntN(3) {
			case 0:
				_ = os.WriteFile(name, []byte(fmt.Sprint(rand.Int())), 0o644)
			case 1:
				_ = os.MkdirAll(name+"/sub", 0o755)
				_ = os.WriteFile(name+"/sub/x.nix", []byte(fmt.Sprint(rand.Int())), 0o755)
			}
		}
		if _, err := p.Pin(t.Context(), Latest); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}
