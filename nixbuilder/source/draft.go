package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A draft is a revision in the making. Its contents stay though no revision lists them yet.
type draft struct {
	r       *revisions
	lock    *os.File
	staging string
	tree    string       // where files go at once; empty: publish makes it, perhaps from another tree
	spots   atomic.Int64 // how many were given out
}

// begin makes a draft. Alone means that the revision has nothing in common with others, as far as
// the caller knows: its files then go straight into a tree.
func (r *revisions) begin(alone bool) (*draft, error) {
	lock, err := r.adding(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	d := &draft{r: r, lock: lock}
	d.staging, err = os.MkdirTemp(r.dir, ".new-")
	if err == nil && alone {
		d.tree = filepath.Join(d.staging, treeName)
		err = os.Mkdir(d.tree, 0o755)
	}
	if err != nil {
		d.end(0)
		return nil, err
	}
	return d, nil
}

// adding keeps contents that no revision lists yet from being removed, until the returned file is
// closed.
func (r *revisions) adding(how int) (*os.File, error) { return lockTree(filepath.Dir(r.dir), how) }

// mkdir makes a directory of the tree. It comes before what the directory holds.
func (d *draft) mkdir(rel string) error {
	if d.tree == "" {
		return nil
	}
	return os.Mkdir(filepath.Join(d.tree, rel), 0o755)
}

// spot returns where to write the content of a file. It is safe for concurrent use.
func (d *draft) spot(rel string) spot {
	if d.tree != "" {
		return spot{filepath.Join(d.tree, rel), true}
	}
	return spot{filepath.Join(d.staging, strconv.FormatInt(d.spots.Add(1), 10)), false}
}

// count notes that a content was added. It is safe for concurrent use.
func (d *draft) count(bytes int64) {
	d.r.addedFiles.Add(1)
	d.r.addedBytes.Add(bytes)
}

// publish lists the files of a revision, sorted by path, gives it a tree, and forgets old
// revisions.
func (d *draft) publish(ctx context.Context, revision string, files []file, date time.Time) error {
	for err := errNotListed; errors.Is(err, errNotListed); {
		if err = d.r.list(revision, files, date); err == nil {
			err = d.r.ready(ctx, revision, files, d.tree, false)
		}
		if err != nil && !errors.Is(err, errNotListed) {
			return err
		}
	}
	d.r.newest.Store(&listed{revision, files})
	return d.r.prune(revision)
}

// end ends a draft, published or not. Files is how many its revision has.
func (d *draft) end(files int) {
	if d.staging != "" {
		removeAll(d.staging)
	}
	_ = d.lock.Close()
	d.r.sweep(files)
}
