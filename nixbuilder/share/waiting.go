package share

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A list has what waits to be copied, as a symbolic link for each store path, by the path's name in
// the store: making one is atomic, and takes no room. Several processes may use it.
//
// A link to a derivation stands for those of its outputs that are in the store once it is not being
// built any more.
type list struct{ dir string }

// An entry is a path that waits, and since when.
type entry struct {
	path  store.Path
	since time.Time
}

func (e entry) derivation() bool { return strings.HasSuffix(string(e.path), ".drv") }

// has tells whether a path waits.
func (l list) has(p store.Path) bool {
	_, err := os.Lstat(filepath.Join(l.dir, p.Base()))
	return err == nil
}

// add adds a path that does not wait yet. It is no error if another process has added it.
func (l list) add(p store.Path) error {
	err := os.Symlink(string(p), filepath.Join(l.dir, p.Base()))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// remove takes a path off the list.
func (l list) remove(p store.Path) error {
	err := os.Remove(filepath.Join(l.dir, p.Base()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// all returns what waits, the oldest first. It leaves out what is not a link that add has made.
func (l list) all() (entries []entry, err error) {
	for again := true; again; {
		files, err := os.ReadDir(l.dir)
		if err != nil {
			return nil, fmt.Errorf("reading what waits to be shared: %w", err)
		}
		again, entries = false, nil
		for _, file := range files {
			p, err := store.ParsePath(store.Dir + "/" + file.Name())
			if err != nil || file.Type() != fs.ModeSymlink {
				continue
			}
			info, err := file.Info()
			if err != nil {
				again = true // a derivation that is removed has left its outputs, which were not there yet
				continue
			}
			entries = append(entries, entry{p, info.ModTime()})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.path, b.path))
	})
	return entries, nil
}
