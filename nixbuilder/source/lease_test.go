package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A moving is a set that changes, in two processes that share its copies.
type moving struct {
	holder, other Source
	// move changes the set; pins of other are then of another revision.
	move func(i int)
}

// movings returns one of each kind of source.
func movings(t *testing.T) map[string]moving {
	t.Helper()
	all := make(map[string]moving)

	origin, copies := t.TempDir(), t.TempDir()
	write(t, origin+"/default.nix", "first")
	write(t, origin+"/sub/same.nix", "same")
	paths := make([]*Path, 2)
	for i := range paths {
		var err error
		if paths[i], err = NewPath(NewWatches(), origin, copies, 0); err != nil {
			t.Fatal(err)
		}
	}
	all["path"] = moving{paths[0], paths[1], func(i int) { write(t, origin+"/default.nix", fmt.Sprint("edit ", i)) }}

	r, dir := newRemote(t), t.TempDir()
	git := GitOptions{URL: r.dir, Dir: dir, Refresh: 1}
	all["git"] = moving{
		newGit(t, git),
		newGit(t, git),
		func(i int) { r.commit("default.nix", fmt.Sprint("commit ", i)) },
	}

	m, options := newMirror(t)
	options.Refresh = 1
	all["channel"] = moving{channel(t, options), channel(t, options), func(i int) {
		commit := fmt.Sprintf("%040x", i+1)
		m.set(func() {
			m.channels["nixos-26.05"] = commit
			m.archives[commit] = archive(t, nixpkgs(commit)...)
		})
	}}
	return all
}

// contentOf returns all that a tree holds, by path.
func contentOf(t *testing.T, tree string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(tree, path)
		switch info, err := entry.Info(); {
		case err != nil:
			return err
		case entry.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			found[rel] = "-> " + target
			return err
		case entry.IsDir():
			found[rel] = "directory"
		default:
			content, err := os.ReadFile(path)
			found[rel] = fmt.Sprintf("%t %s", info.Mode()&0o111 != 0, content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// A tree that somebody holds stays whole while the set moves on, whichever process pins that. A
// tree that nobody holds goes in the end.
func TestLease(t *testing.T) {
	for name, m := range movings(t) {
		t.Run(name, func(t *testing.T) {
			pinned, err := m.holder.Pin(t.Context(), Latest)
			if err != nil {
				t.Fatal(err)
			}
			release, err := m.holder.Lease(t.Context(), pinned)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			before, top := contentOf(t, pinned.Path), inode(t, pinned.Path)
			moves := 0
			move := func(times int) {
				for range times {
					m.move(moves)
					moves++
					if now, err := m.other.Pin(t.Context(), Latest); err != nil || now.Revision == pinned.Revision {
						t.Fatalf("after move %d, Pin = %+v, %v", moves, now, err)
					}
				}
			}
			move(defaultKeep + 3)
			if after := contentOf(t, pinned.Path); !maps.Equal(before, after) || inode(t, pinned.Path) != top {
				t.Errorf("what is held became %q, was %q", after, before)
			}
			release()
			move(defaultKeep + 3)
			if _, err := os.Stat(pinned.Path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what nobody holds any more is still there: %v", err)
			}
		})
	}
}

// A tree that is gone between Pin and Lease is made again if it can be.
func TestHoldMakesAgain(t *testing.T) {
	for name, m := range movings(t) {
		t.Run(name, func(t *testing.T) {
			pinned, err := m.holder.Pin(t.Context(), Latest)
			if err != nil {
				t.Fatal(err)
			}
			before := contentOf(t, pinned.Path)
			m.move(0)
			if _, err := m.other.Pin(t.Context(), Latest); err != nil {
				t.Fatal(err)
			}
			for _, harm := range []struct {
				name string
				do   func() error
			}{
				{"nothing", func() error { return nil }},
				{
					"the tree alone",
					func() error { return os.RemoveAll(filepath.Join(filepath.Dir(pinned.Path), treeName)) },
				},
			} {
				if err := harm.do(); err != nil {
					t.Fatal(err)
				}
				release, err := m.holder.Lease(t.Context(), pinned)
				if err != nil {
					t.Fatalf("%s: %v", harm.name, err)
				}
				if after := contentOf(t, pinned.Path); !maps.Equal(before, after) {
					t.Errorf("%s: what is held is %q, was %q", harm.name, after, before)
				}
				release()
			}
			if err := os.RemoveAll(filepath.Dir(pinned.Path)); err != nil {
				t.Fatal(err)
			}
			release, err := m.holder.Lease(t.Context(), pinned)
			if name == "path" {
				if err == nil || !strings.Contains(err.Error(), "has changed several times") {
					t.Errorf("Lease of a revision that is forgotten = %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if after := contentOf(t, pinned.Path); !maps.Equal(before, after) {
				t.Errorf("what is fetched again is %q, was %q", after, before)
			}
		})
	}
}

// The revisions stay that were asked for last.
func TestKeepsWhatIsAskedFor(t *testing.T) {
	for name, m := range movings(t) {
		t.Run(name, func(t *testing.T) {
			var all []Pinned
			for i := range defaultKeep + 2 {
				m.move(i)
				pinned, err := m.holder.Pin(t.Context(), Latest)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, pinned)
				if again, err := m.holder.Pin(t.Context(), all[0].Revision); err != nil || again.Path != all[0].Path {
					t.Errorf("Pin of what is asked for all the time = %+v, %v", again, err)
				}
			}
			for i, pinned := range all {
				_, err := os.Stat(filepath.Dir(pinned.Path))
				if there, want := err == nil, i == 0 || i > 2; there != want {
					t.Errorf("revision %d of %d is there: %t, want %t", i, len(all), there, want)
				}
			}
		})
	}
}

// A held tree has the files of its revision, whatever several processes pin and hold at the same
// time.
func TestHoldConcurrently(t *testing.T) {
	for name, m := range movings(t) {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			known := make(map[string]string) // by revision
			var wg sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			for _, source := range []Source{m.holder, m.other, m.holder, m.other} {
				wg.Go(func() {
					for ctx.Err() == nil {
						pinned, err := source.Pin(ctx, Latest)
						if err != nil {
							if ctx.Err() == nil {
								t.Error(err)
							}
							return
						}
						release, err := source.Lease(ctx, pinned)
						if err != nil {
							continue // the set has changed several times since
						}
						content := fmt.Sprint(contentOf(t, pinned.Path))
						release()
						mu.Lock()
						if was, ok := known[pinned.Revision]; ok && was != content {
							t.Errorf("revision %s holds %s, held %s", pinned.Revision, content, was)
						}
						known[pinned.Revision] = content
						mu.Unlock()
					}
				})
			}
			for i := range 20 {
				m.move(i)
				if _, err := m.other.Pin(t.Context(), Latest); err != nil {
					t.Error(err)
				}
			}
			stop()
			wg.Wait()
			if len(known) < 2 {
				t.Errorf("%d revisions were held", len(known))
			}
		})
	}
}
