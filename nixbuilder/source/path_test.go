package source

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func pin(t *testing.T, p *Path) Pinned {
	t.Helper()
	pinned, err := p.Pin(t.Context(), Latest)
	if err != nil {
		t.Fatal(err)
	}
	return pinned
}

func TestPathRevisions(t *testing.T) {
	steps := []struct {
		name  string
		edit  func(dir string) error
		moves bool
	}{
		{"nothing", func(string) error { return nil }, false},
		{
			"touched, content the same",
			func(d string) error { return os.Chtimes(d+"/default.nix", time.Now(), time.Unix(1, 0)) },
			false,
		},
		{
			"edited in place, same size",
			func(d string) error { return os.WriteFile(d+"/default.nix", []byte("{ b=1; }"), 0o644) },
			true,
		},
		{
			"edited at once again",
			func(d string) error { return os.WriteFile(d+"/default.nix", []byte("{ c=1; }"), 0o644) },
			true,
		},
		{"file added", func(d string) error { return os.WriteFile(d+"/sub/new.nix", nil, 0o644) }, true},
		{"made executable", func(d string) error { return os.Chmod(d+"/sub/new.nix", 0o755) }, true},
		{"read-only is no difference", func(d string) error { return os.Chmod(d+"/sub/new.nix", 0o555) }, false},
		{"renamed", func(d string) error { return os.Rename(d+"/sub/new.nix", d+"/sub/other.nix") }, true},
		{"symlink added", func(d string) error { return os.Symlink("default.nix", d+"/link") }, true},
		{"symlink changed", func(d string) error {
			return errors.Join(os.Remove(d+"/link"), os.Symlink("elsewhere", d+"/link"))
		}, true},
		{"removed", func(d string) error { return os.Remove(d + "/sub/other.nix") }, true},
		{"empty directory added", func(d string) error { return os.Mkdir(d+"/empty", 0o755) }, true},
		{"git's own files", func(d string) error {
			return errors.Join(os.Mkdir(d+"/.git", 0o755), os.WriteFile(d+"/.git/index", nil, 0o644))
		}, false},
	}
	origin := t.TempDir()
	write(t, origin+"/default.nix", "{ a=1; }")
	write(t, origin+"/sub/x.nix", "1")
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	last := pin(t, p)
	for _, step := range steps {
		if err := step.edit(origin); err != nil {
			t.Fatal(err)
		}
		now := pin(t, p)
		if (now.Revision != last.Revision) != step.moves {
			t.Errorf("%s: revision changed: %t, want %t", step.name, !step.moves, step.moves)
		}
		fresh, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if again := pin(t, fresh); again.Revision != now.Revision {
			t.Errorf("%s: %s step by step, %s from scratch", step.name, now.Revision, again.Revision)
		}
		last = now
	}
}

func TestPathCopyIsImmutable(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/default.nix", "old")
	write(t, origin+"/same.nix", "same")
	aged := time.Now().Add(-time.Hour)
	for _, name := range []string{"default.nix", "same.nix"} {
		if err := os.Chtimes(filepath.Join(origin, name), aged, aged); err != nil {
			t.Fatal(err)
		}
	}
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	before := pin(t, p)
	write(t, origin+"/default.nix", "new")
	if got := read(t, before.Path+"/default.nix"); got != "old" {
		t.Errorf("the copy says %q after an edit of the origin, want %q", got, "old")
	}
	after := pin(t, p)
	if got := read(t, after.Path+"/default.nix"); got != "new" {
		t.Errorf("the new copy says %q, want %q", got, "new")
	}
	if old, err := p.Pin(t.Context(), before.Revision); err != nil || !reflect.DeepEqual(old, before) {
		t.Errorf("Pin of the old revision = %+v, %v, want %+v", old, err, before)
	}
	for _, tag := range []string{"main", strings.Repeat("0", 64), "../" + before.Revision, ""} {
		if _, err := p.Pin(t.Context(), tag); !errors.Is(err, ErrUnknownTag) {
			t.Errorf("Pin(%q) = %v, want ErrUnknownTag", tag, err)
		}
	}
}

// Files that have not changed are neither read nor stored again.
func TestPathSharesUnchangedFiles(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/default.nix", "old")
	write(t, origin+"/same.nix", "same")
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(raceWindow + 100*time.Millisecond) // the first walk must be able to believe the files' times
	before := pin(t, p)
	release, err := p.Lease(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	write(t, origin+"/default.nix", "new")
	after := pin(t, p)
	if a, b := inode(t, before.Path+"/same.nix"), inode(t, after.Path+"/same.nix"); a != b {
		t.Errorf("an unchanged file has inode %d in one copy and %d in the next, want the same", a, b)
	}
	if a, b := inode(t, before.Path+"/default.nix"), inode(t, after.Path+"/default.nix"); a == b {
		t.Error("a changed file is shared between two copies")
	}
	made := inode(t, after.Path)
	if again := pin(t, p); again.Path != after.Path || inode(t, again.Path) != made {
		t.Errorf("what may have changed but did not gives %+v, want the copy that is there", again)
	}
}

// Files that another process has read and copied are not read again, if their status shows that
// they are the same.
func TestPathRestarts(t *testing.T) {
	origin, copies := t.TempDir(), t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	write(t, origin+"/sub/x.nix", "1")
	time.Sleep(raceWindow + 100*time.Millisecond)
	p, err := NewPath(NewWatches(), origin, copies, 0)
	if err != nil {
		t.Fatal(err)
	}
	before := pin(t, p)
	for _, test := range []struct {
		name    string
		prepare func() error
		known   bool
	}{
		{"nothing", func() error { return nil }, true},
		{
			"what was remembered is damaged",
			func() error { return os.Truncate(filepath.Dir(before.Path)+"/"+filesName, 100) }, false,
		},
		{"nothing again", func() error { return nil }, true},
		{
			"what was remembered is gone",
			func() error { return os.Remove(filepath.Dir(before.Path) + "/" + filesName) }, false,
		},
		{"the copy is gone", func() error { return os.RemoveAll(filepath.Dir(before.Path)) }, false},
	} {
		if err := test.prepare(); err != nil {
			t.Fatal(err)
		}
		restarted, err := NewPath(NewWatches(), origin, copies, 0)
		if err != nil {
			t.Fatal(err)
		}
		found, err := restarted.walk(t.Context(), origin)
		if err != nil {
			t.Fatal(err)
		}
		if known := !restarted.changed(found); known != test.known {
			t.Errorf("%s: the files are known: %t, want %t", test.name, known, test.known)
		}
		if after := pin(t, restarted); after.Path != before.Path || after.Revision != before.Revision {
			t.Errorf("%s: Pin = %+v, want %+v", test.name, after, before)
		}
		if got := read(t, before.Path+"/sub/x.nix"); got != "1" {
			t.Errorf("%s: the copy says %q", test.name, got)
		}
	}
	write(t, origin+"/sub/x.nix", "2")
	restarted, err := NewPath(NewWatches(), origin, copies, 0)
	if err != nil {
		t.Fatal(err)
	}
	if after := pin(t, restarted); after.Revision == before.Revision || read(t, after.Path+"/sub/x.nix") != "2" ||
		read(t, after.Path+"/default.nix") != "{ }" {
		t.Errorf("after an edit, Pin = %+v", after)
	}
}

// An operator moves from one release to the next by changing a link.
func TestPathIsSymlink(t *testing.T) {
	for _, test := range []struct{ name, link, one, two, file string }{
		{"directory", "set", "one", "two", "default.nix"},
		{"file", "set.nix", "one/a.nix", "two/b.nix", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, test.one, test.file), "1")
			write(t, filepath.Join(dir, test.two, test.file), "2")
			link := filepath.Join(dir, test.link)
			for release, want := range map[string]string{test.one: "1", test.two: "2"} {
				if err := errors.Join(os.RemoveAll(link), os.Symlink(release, link)); err != nil {
					t.Fatal(err)
				}
				p, err := NewPath(NewWatches(), link, t.TempDir(), 0)
				if err != nil {
					t.Fatal(err)
				}
				pinned := pin(t, p)
				if got := read(t, filepath.Join(pinned.Path, test.file)); got != want ||
					pinned.Name != "path:"+test.link {
					t.Errorf("the copy of %s says %q, want %q", pinned.Name, got, want)
				}
			}
		})
	}
}

func TestPathSingleFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/set.nix", "{ }")
	write(t, dir+"/unrelated", "x")
	p, err := NewPath(NewWatches(), dir+"/set.nix", t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	pinned := pin(t, p)
	if got := read(t, pinned.Path); got != "{ }" {
		t.Errorf("the copy says %q, want %q", got, "{ }")
	}
	write(t, dir+"/unrelated", "y")
	if again := pin(t, p); !reflect.DeepEqual(again, pinned) {
		t.Errorf("a file beside the set changed the revision to %+v", again)
	}
}

func TestPathKeepsFewCopies(t *testing.T) {
	origin, copies := t.TempDir(), t.TempDir()
	write(t, origin+"/default.nix", "")
	p, err := NewPath(NewWatches(), origin, copies, 0)
	if err != nil {
		t.Fatal(err)
	}
	var pinned Pinned
	for i := range defaultKeep + 3 {
		write(t, origin+"/default.nix", strings.Repeat("#", i))
		pinned = pin(t, p)
	}
	found, err := filepath.Glob(copies + "/*/trees/*")
	if err != nil || len(found) != defaultKeep {
		t.Errorf("%d revisions (%v), want %d", len(found), err, defaultKeep)
	}
	if _, err := os.Stat(pinned.Path); err != nil {
		t.Errorf("the current copy: %v", err)
	}
}

func TestPathVanishes(t *testing.T) {
	origin := filepath.Join(t.TempDir(), "set")
	write(t, origin+"/default.nix", "{ }")
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	before := pin(t, p)
	if err := os.Rename(origin, origin+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Pin(t.Context(), Latest); err == nil || errors.Is(err, ErrUnknownTag) {
		t.Errorf("Pin of a path that is gone = %v, want an error that is not about the tag", err)
	}
	if err := os.Rename(origin+"-away", origin); err != nil {
		t.Fatal(err)
	}
	if after := pin(t, p); !reflect.DeepEqual(after, before) {
		t.Errorf("Pin = %+v once the path is back, want %+v", after, before)
	}
}

func TestPathConcurrentPins(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	copies := t.TempDir()
	var wg sync.WaitGroup
	for range 4 { // processes that share a directory of copies
		p, err := NewPath(NewWatches(), origin, copies, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			wg.Go(func() {
				if _, err := p.Pin(t.Context(), Latest); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

func TestPathOfAFlake(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/flake.nix", "{ }")
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, pin(t, p).Path+"/flake.nix"); got != "{ }" {
		t.Errorf("the copy says %q", got)
	}
}

func TestNewPathRefuses(t *testing.T) {
	empty := t.TempDir()
	write(t, empty+"/set.txt", "")
	for _, origin := range []string{empty, empty + "/set.txt", empty + "/missing"} {
		_, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
		if err == nil || !strings.Contains(err.Error(), origin) {
			t.Errorf("NewPath(%q) = %v, want an error that names it", origin, err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// settled returns a Path that is pinned and whose set has not changed for long enough to be
// believed.
func settled(t *testing.T, origin string) *Path {
	t.Helper()
	p, err := NewPath(NewWatches(), origin, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	pin(t, p)
	if p.unseen != nil {
		needs.Missing(t, "the file system of the temporary directory can't be watched: %v", p.unseen)
	}
	return p
}

// A set that nobody has touched is not walked again, and the next Pin sees any change.
func TestPathIsWatched(t *testing.T) {
	top := t.TempDir()
	origin := top + "/set"
	write(t, origin+"/default.nix", "{ }")
	write(t, origin+"/a/b/c.nix", "1")
	write(t, top+"/other/default.nix", "{ other=1; }")
	if err := os.Symlink("set", top+"/link"); err != nil {
		t.Fatal(err)
	}
	p := settled(t, top+"/link")
	for _, step := range []struct {
		name string
		edit func() error
	}{
		{"a file far below", func() error { return os.WriteFile(origin+"/a/b/c.nix", []byte("2"), 0o644) }},
		{"a directory", func() error { return os.Mkdir(origin+"/new", 0o755) }},
		{"a file in a new directory", func() error { return os.WriteFile(origin+"/new/x.nix", []byte("x"), 0o644) }},
		{"a directory in place of another", func() error {
			return errors.Join(
				os.MkdirAll(top+"/b/sub", 0o755), os.Rename(origin+"/a/b", top+"/was"),
				os.Rename(top+"/b", origin+"/a/b"),
			)
		}},
		{
			"a file in what came from elsewhere",
			func() error { return os.WriteFile(origin+"/a/b/sub/y.nix", []byte("y"), 0o644) },
		},
		{"executable", func() error { return os.Chmod(origin+"/new/x.nix", 0o755) }},
		{"the set moved away, another in its place", func() error {
			return errors.Join(os.Rename(origin, top+"/old"), os.Rename(top+"/other", origin))
		}},
		{"a link that leads elsewhere", func() error {
			return errors.Join(os.Symlink("old", top+"/new-link"), os.Rename(top+"/new-link", top+"/link"))
		}},
	} {
		before, walked := pin(t, p), p.started
		if again := pin(t, p); p.started != walked || again.Revision != before.Revision {
			t.Errorf("before %s: the set was walked again though nothing had happened", step.name)
		}
		if got, ok := p.Current(Latest); !ok || got != before.Revision {
			t.Errorf("before %s: Current = %s, %t, want %s", step.name, got, ok, before.Revision)
		}
		if err := step.edit(); err != nil {
			t.Fatal(err)
		}
		if got, ok := p.Current(Latest); ok {
			t.Errorf("%s: Current = %s", step.name, got)
		}
		if after := pin(t, p); after.Revision == before.Revision {
			t.Errorf("%s: not seen", step.name)
		}
	}
}

// A change that the kernel does not report is found a little later.
func TestPathIsWalkedNowAndThen(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	if err := os.Link(origin+"/default.nix", origin+".linked"); err != nil {
		t.Fatal(err)
	}
	p := settled(t, origin)
	before := pin(t, p)
	write(t, origin+".linked", "{ a=1; }")
	p.walked = p.walked.Add(-believed)
	if after := pin(t, p); after.Revision == before.Revision {
		t.Error("an edit through another link is never seen")
	}
}

// Pin does not answer with an old revision of a set that can't be read.
func TestPathFailsAgain(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	p := settled(t, origin)
	if err := syscall.Mkfifo(origin+"/pipe", 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if pinned, err := p.Pin(t.Context(), Latest); err == nil {
			t.Fatalf("Pin = %+v, want an error about the pipe", pinned)
		}
	}
	if err := os.Remove(origin + "/pipe"); err != nil {
		t.Fatal(err)
	}
	pin(t, p)
}

// Every Pin walks if others may write to the set unseen, or if there is nothing to watch.
func TestWatchRefuses(t *testing.T) {
	for _, dir := range []string{"/proc/self", "/sys", t.TempDir() + "/missing"} {
		w, err := NewWatches().newWatch()
		if err != nil {
			t.Fatal(err)
		}
		if w.begin(); !w.quiet() {
			t.Error("a watch of nothing is not quiet")
		}
		if w.add(dir, "."); w.quiet() || w.end() == nil {
			t.Errorf("%s: quiet", dir)
		}
		w.close()
	}
}

// After an edit of files, only their directories are listed.
func TestPathEditIsNoWalk(t *testing.T) {
	origin := t.TempDir()
	write(t, origin+"/default.nix", "{ }")
	write(t, origin+"/a/b/c.nix", "1")
	p := settled(t, origin)
	for _, step := range []struct {
		name  string
		edit  func() error
		walks bool
	}{
		{
			"a file written in place",
			func() error { return os.WriteFile(origin+"/a/b/c.nix", []byte("2"), 0o644) }, false,
		},
		{"once more at once", func() error { return os.WriteFile(origin+"/a/b/c.nix", []byte("3"), 0o644) }, false},
		{"a file replaced, as editors do", func() error {
			return errors.Join(
				os.WriteFile(origin+"/a/b/.c.tmp", []byte("4"), 0o644),
				os.Rename(origin+"/a/b/.c.tmp", origin+"/a/b/c.nix"),
			)
		}, false},
		{"a file made", func() error { return os.WriteFile(origin+"/a/new.nix", []byte("new"), 0o644) }, false},
		{"a file moved", func() error { return os.Rename(origin+"/a/new.nix", origin+"/moved.nix") }, false},
		{"a link", func() error { return os.Symlink("default.nix", origin+"/a/link") }, false},
		{"a mode", func() error { return os.Chmod(origin+"/moved.nix", 0o755) }, false},
		{"a file removed", func() error { return os.Remove(origin + "/moved.nix") }, false},
		{"a directory in place of a file", func() error {
			return errors.Join(os.Remove(origin+"/a/link"), os.Mkdir(origin+"/a/link", 0o755))
		}, true},
		{"a file in it", func() error { return os.WriteFile(origin+"/a/link/x", []byte("x"), 0o644) }, false},
		{"a directory moved", func() error { return os.Rename(origin+"/a", origin+"/z") }, true},
		{"a file in that", func() error { return os.WriteFile(origin+"/z/b/c.nix", []byte("5"), 0o644) }, false},
		{"a file in a directory that is moved then", func() error {
			return errors.Join(
				os.WriteFile(origin+"/z/b/c.nix", []byte("6"), 0o644), os.Rename(origin+"/z/b", origin+"/b"),
			)
		}, true},
		{"a directory removed", func() error { return os.RemoveAll(origin + "/b") }, true},
	} {
		if err := step.edit(); err != nil {
			t.Fatal(err)
		}
		p.walked = p.walked.Add(time.Since(p.walked)) // however slow this machine is
		walked := p.walked
		now := pin(t, p)
		if got, want := contentOf(t, now.Path), contentOf(t, origin); !maps.Equal(got, want) {
			t.Errorf("%s: the copy has %q, want %q", step.name, got, want)
		}
		if walks := p.walked != walked; walks != step.walks {
			t.Errorf("%s: the whole set was walked: %t, want %t", step.name, walks, step.walks)
		}
		if again := pin(t, p); again.Revision != now.Revision {
			t.Errorf("%s: without another edit, Pin = %s, was %s", step.name, again.Revision, now.Revision)
		}
	}
}

// All sets of a process share one inotify instance.
func TestWatchesAreOneInstance(t *testing.T) {
	watches, opened := NewWatches(), 0
	open := watches.open
	watches.open = func() (int, error) { opened++; return open() }
	top := t.TempDir()
	write(t, top+"/default.nix", "outer")
	write(t, top+"/inner/default.nix", "inner")
	write(t, top+"/inner/sub/x.nix", "x")
	var sets []*Path // of which one is in the other
	for _, origin := range []string{top, top + "/inner"} {
		p, err := NewPath(watches, origin, t.TempDir(), 0)
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, p)
	}
	for i, step := range []func() error{
		func() error { return nil },
		func() error { return os.WriteFile(top+"/inner/sub/x.nix", []byte("y"), 0o644) },
		func() error { return os.Mkdir(top+"/inner/sub/new", 0o755) },
		func() error { return os.WriteFile(top+"/inner/sub/new/x.nix", []byte("z"), 0o644) },
		func() error { sets[0].unwatch(); return nil }, // what it shared stays watched for the other
		func() error { return os.WriteFile(top+"/inner/sub/new/x.nix", []byte("zz"), 0o644) },
		func() error { return os.RemoveAll(top + "/inner/sub") },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		for _, p := range sets {
			if now := pin(t, p); !maps.Equal(contentOf(t, now.Path), contentOf(t, p.origin)) {
				t.Errorf("after step %d, the copy of %s has %q", i, p.origin, contentOf(t, now.Path))
			}
		}
	}
	if opened != 1 {
		t.Errorf("%d inotify instances were opened", opened)
	}
	if len(watches.places) != 2 {
		t.Errorf("%d directories are watched, want the 2 that are left", len(watches.places))
	}
}

// A set that can't be watched is served all the same. The operator is told once, with the way out.
func TestPathWithoutWatch(t *testing.T) {
	for _, test := range []struct {
		name string
		open func() (int, error)
		want string
	}{
		{"no instance left", func() (int, error) { return -1, syscall.EMFILE }, "fs.inotify.max_user_instances"},
		{"no watches left", func() (int, error) { return -1, syscall.ENOSPC }, "fs.inotify.max_user_watches"},
	} {
		t.Run(test.name, func(t *testing.T) {
			logged := logtest.NewGlobal()
			defer logrus.StandardLogger().ReplaceHooks(make(logrus.LevelHooks))
			origin := t.TempDir()
			write(t, origin+"/default.nix", "0")
			watches := NewWatches()
			tried, open := 0, watches.open
			watches.open = func() (int, error) { tried++; return test.open() }
			p, err := NewPath(watches, origin, t.TempDir(), 0)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				write(t, origin+"/default.nix", fmt.Sprint(i))
				if got := read(t, pin(t, p).Path+"/default.nix"); got != fmt.Sprint(i) {
					t.Errorf("the copy says %q, want %d", got, i)
				}
			}
			if tried != 1 {
				t.Errorf("watching was tried %d times in a row", tried)
			}
			p.tried = p.tried.Add(-watchAgain)
			pin(t, p)
			if entries := logged.AllEntries(); len(entries) != 1 || entries[0].Level != logrus.WarnLevel ||
				!strings.Contains(entries[0].Message, test.want) {
				t.Errorf("the log has %v, want one warning about %s", entries, test.want)
			}
			watches.open = open
			p.tried = p.tried.Add(-watchAgain)
			pin(t, p)
			if walked := p.walked; pin(t, p).Path == "" || p.walked != walked {
				t.Error("once it can be watched, the set is still walked at every Pin")
			}
		})
	}
}
