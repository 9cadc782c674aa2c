package share

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

// A fakeStore has outputs by derivation. All of them are valid.
type fakeStore struct {
	mu      sync.Mutex
	outputs map[store.Path][]store.Path
}

func (f *fakeStore) ValidOutputs(_ context.Context, drv store.Path) ([]store.Path, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.outputs[drv], nil
}

func (f *fakeStore) Valid(_ context.Context, paths []store.Path) (valid []store.Path, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, outputs := range f.outputs {
		for _, p := range paths {
			if slices.Contains(outputs, p) {
				valid = append(valid, p)
			}
		}
	}
	return valid, nil
}

// build adds derivations with an output each.
func (f *fakeStore) build(names ...string) (drvs, outputs []store.Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		drv, out := storetest.Path(name+".drv"), storetest.Path(name)
		f.outputs[drv] = []store.Path{out}
		drvs, outputs = append(drvs, drv), append(outputs, out)
	}
	return drvs, outputs
}

// A fakeNix is a program nix in PATH that notes what it copies, or fails while there is a file down.
type fakeNix struct {
	t   *testing.T
	dir string
}

func newFakeNix(t *testing.T) fakeNix {
	t.Helper()
	n := fakeNix{t, t.TempDir()}
	script := fmt.Sprintf(`#!/bin/sh
for argument; do case $argument in /nix/store/*) path=$argument;; esac; done
if test -e %[1]s/down; then echo "$path" >>%[1]s/failed; exit 1; fi
echo "$path" >>%[1]s/copied
`, n.dir)
	if err := os.WriteFile(filepath.Join(n.dir, "nix"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", n.dir+":"+os.Getenv("PATH"))
	return n
}

func (n fakeNix) setDown(down bool) {
	n.t.Helper()
	err := os.Remove(filepath.Join(n.dir, "down"))
	if down {
		err = os.WriteFile(filepath.Join(n.dir, "down"), nil, 0o644)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n fakeNix) lines(name string) (paths []store.Path) {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, name))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	for line := range strings.FieldsSeq(string(text)) {
		paths = append(paths, store.Path(line))
	}
	return paths
}

// openShare opens a Share with a list in dir. It does not run.
func openShare(t *testing.T, dir string) *Share {
	t.Helper()
	key, _ := writeKey(t)
	runner, _ := proc.New()
	options := Options{To: "file:///srv/share", SecretKeyFile: key}
	s, err := Open(runner, options, nil, []string{"PATH=" + os.Getenv("PATH")}, dir)
	if err != nil {
		t.Fatal(err)
	}
	s.pause = time.Millisecond
	return s
}

// run copies until the returned function is called.
func run(t *testing.T, s *Share, from Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx, from)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: ", what)
		}
	}
}

// all returns the names that wait, sorted.
func (s *Share) names(t *testing.T) (names []string) {
	t.Helper()
	entries, err := s.waiting.all()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.path.Name())
	}
	slices.Sort(names)
	return names
}

// TestRun copies what was built, in the order of building, once builds are over.
func TestRun(t *testing.T) {
	nix, built := newFakeNix(t), &fakeStore{outputs: make(map[store.Path][]store.Path)}
	s := openShare(t, t.TempDir())
	run(t, s, built)
	drvs, outputs := built.build("a-1", "b-1")
	_, others := built.build("floating-1")
	floating := others[0]
	first := s.Expect(drvs[:1])
	second := s.Expect(drvs) // of another image
	first([]store.Path{floating})
	eventually(t, "the floating output is copied", func() bool { return slices.Contains(nix.lines("copied"), floating) })
	if got := nix.lines("copied"); !slices.Equal(got, []store.Path{floating}) {
		t.Errorf("in the middle of a build, %q were copied", got)
	}
	second(nil)
	eventually(t, "all is copied", func() bool { return len(s.names(t)) == 0 })
	got := nix.lines("copied")
	slices.Sort(got)
	want := slices.Sorted(slices.Values(append(outputs, floating)))
	if !slices.Equal(got, want) {
		t.Errorf("%q were copied, want %q", got, want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := map[string]int{metrics.SharedCopied: 3}; !maps.Equal(s.counts, want) {
		t.Errorf("the counts are %v, want %v", s.counts, want)
	}
}

// TestRunAgain goes on with what an earlier process has left: what it was building, and what it had
// not copied. What is gone from the store is dropped.
func TestRunAgain(t *testing.T) {
	nix, built := newFakeNix(t), &fakeStore{outputs: make(map[store.Path][]store.Path)}
	dir := t.TempDir()
	nix.setDown(true)
	s := openShare(t, dir)
	stop := run(t, s, built)
	drvs, outputs := built.build("done-1", "interrupted-1")
	s.Expect(drvs[:1])([]store.Path{storetest.Path("collected-1")})
	s.Expect(drvs[1:])
	s.Expect([]store.Path{storetest.Path("not-built-1.drv")})
	eventually(t, "copying fails", func() bool { return s.counted(metrics.SharedFailed) > 0 })
	stop()
	if got, want := s.names(t), []string{"done-1", "interrupted-1.drv", "not-built-1.drv"}; !slices.Equal(got, want) {
		t.Errorf("%q wait, want %q", got, want)
	}
	if s.counted(metrics.SharedDropped) != 1 || s.counted(metrics.SharedCopied) > 0 {
		t.Errorf("the counts are %v, want one path dropped", s.counts)
	}
	for _, junk := range []string{"junk", "try-1"} {
		if err := os.WriteFile(filepath.Join(dir, junk), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	nix.setDown(false)
	again := openShare(t, dir)
	run(t, again, built)
	eventually(t, "all is copied", func() bool { return len(again.names(t)) == 0 })
	got := nix.lines("copied")
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(outputs)); !slices.Equal(got, want) {
		t.Errorf("after the next start, %q were copied, want %q", got, want)
	}
}

// TestWaitingIsBounded builds more than may wait while nothing can be copied.
func TestWaitingIsBounded(t *testing.T) {
	nix, built := newFakeNix(t), &fakeStore{outputs: make(map[store.Path][]store.Path)}
	nix.setDown(true)
	s := openShare(t, t.TempDir())
	s.most = 200
	var names []string
	for i := range s.most + 10 {
		names = append(names, fmt.Sprintf("p-%d", i))
	}
	drvs, _ := built.build(names...)
	done := s.Expect(drvs)
	if got := len(s.names(t)); got != s.most {
		t.Errorf("%d wait, want %d", got, s.most)
	}
	if got := s.counted(metrics.SharedDropped); got != 10 {
		t.Errorf("%d were dropped, want 10", got)
	}
	done(nil)
	if got := s.counted(metrics.SharedDropped); got != 20 {
		t.Errorf("%d were dropped, want those 10 again", got)
	}
	if len(s.building) > 0 {
		t.Errorf("%d derivations are kept in memory", len(s.building))
	}
}

// TestUsable asks a cache only now and then, and once at a time.
func TestUsable(t *testing.T) {
	dir := t.TempDir()
	s := openShare(t, t.TempDir())
	s.options.To = "file://" + dir
	again := func() bool {
		s.asked = time.Time{}
		return s.Usable(t.Context())
	}
	if again() {
		t.Error("an empty directory is a cache")
	}
	if s.silent {
		t.Error("the log says that an empty directory can't be read")
	}
	info := filepath.Join(dir, "nix-cache-info")
	if err := os.WriteFile(info, []byte("StoreDir: /nix/store\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.Usable(t.Context()) {
		t.Error("the cache was asked again at once")
	}
	if !again() {
		t.Error("a cache is not usable")
	}
	s.Failed(fmt.Errorf("hangs"))
	if s.Usable(t.Context()) {
		t.Error("a cache that has failed is usable")
	}
	s.asked = time.Time{}
	if s.Usable(t.Context()) {
		t.Error("somebody has waited for a cache that has failed")
	}
	eventually(t, "the cache is usable again", func() bool { return s.Usable(t.Context()) })
	if err := os.WriteFile(info, []byte("StoreDir: /elsewhere\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again() {
		t.Error("a cache of another store is usable")
	}
}
