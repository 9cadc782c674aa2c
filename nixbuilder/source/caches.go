package source

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
)

// A cache is a source that stores what can be had again, and tells when it has stored more.
type cache interface {
	cachedir.Part
	notify(grown func())
}

// Parts returns what the set, and all that it can look up, store on this machine. From now on,
// grown is called when there is more of it. Parts is called before the first Pin.
func (v *Variants) Parts(grown func()) (parts []cachedir.Part) {
	sets := []Source{v.set}
	for _, name := range v.names {
		sets = append(sets, v.nixPath[name])
	}
	for _, set := range sets {
		if one, ok := set.(cache); ok {
			one.notify(grown)
			parts = append(parts, one)
		}
	}
	return parts
}

// items are the revisions that have a directory, whether or not there is a tree in it.
func (t *trees) items(remove func(revision string) bool) (items []cachedir.Item) {
	for _, revision := range t.used() {
		info, err := os.Stat(filepath.Join(t.dir, revision, lockName))
		if err != nil {
			info, err = os.Stat(filepath.Join(t.dir, revision))
		}
		if err == nil {
			items = append(items, cachedir.Item{Used: info.ModTime(), Remove: func() bool { return remove(revision) }})
		}
	}
	return items
}

// Dir is where lists, contents and trees of revisions are.
func (r *revisions) Dir() string { return filepath.Dir(r.dir) }

// Items are revisions. Removing one also removes the contents that no other has.
func (r *revisions) Items() []cachedir.Item {
	return r.items(func(revision string) bool {
		if !r.remove(revision) {
			return false
		}
		r.addedBytes.Store(sweepBytes)
		r.sweep(0)
		return true
	})
}

// Dir is where the channel's revisions are.
func (c *Channel) Dir() string { return c.kept.Dir() }

// Items are revisions.
func (c *Channel) Items() []cachedir.Item { return c.kept.Items() }

func (c *Channel) notify(grown func()) { c.grown = grown }

// Dir is where the path's revisions are.
func (p *Path) Dir() string { return p.kept.Dir() }

// Items are revisions.
func (p *Path) Items() []cachedir.Item { return p.kept.Items() }

func (p *Path) notify(grown func()) { p.grown = grown }

// Dir is where trees, objects and history are.
func (g *Git) Dir() string { return g.options.Dir }

// Items are trees, the repository of objects and that of history.
func (g *Git) Items() []cachedir.Item {
	items := g.trees.items(g.trees.remove)
	locks := map[string]string{g.objects(): g.options.Dir, g.history.repository(): g.history.dir}
	for repository, locked := range locks {
		if info, err := os.Stat(repository); err == nil {
			items = append(items, cachedir.Item{Used: info.ModTime(), Remove: func() bool {
				lock, err := lockTree(locked, unix.LOCK_EX|unix.LOCK_NB)
				if lock == nil || err != nil {
					return false
				}
				defer lock.Close()
				removeAll(repository)
				return true
			}})
		}
	}
	return items
}

func (g *Git) notify(grown func()) { g.grown = grown }

// used sets the time of a directory, as a note of its use. A failure does not matter.
func used(dir string) {
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
}
