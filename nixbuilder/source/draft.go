package source

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A draft is a revision that is being made. Its contents stay though no revision lists them yet.
type draft struct {
	r       *revisions
	lock    *os.File
	staging string
	tree    string       // where files go at once; empty: it is made in the end, perhaps out of another
	spots   atomic.Int64 // that were given out
}

// begin makes a draft. Whether nothing is known that the revision may have in common with others is
// for the caller to say.
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

// adding keeps contents from being removed that no revision lists yet, until the file that it
// returns is closed.
func (r *revisions) adding(how int) (*os.File, error) { return lockTree(filepath.Dir(r.dir), how) }

// mkdir makes a directory of the tree. It comes before what the directory holds.
func (d *draft) mkdir(rel string) error {
	if d.tree == "" {
		return nil
	}
	return os.Mkdir(filepath.Join(d.tree, rel), 0o755)
}

// spot is where the content of a file is written. It is safe for concurrent use.
func (d *draft) spot(rel string) spot {
	if d.tree != "" {
		return spot{filepath.Join(d.tree, rel), true}
	}
	return spot{filepath.Join(d.staging, strconv.FormatInt(d.spots.Add(1), 10)), false}
}

// count takes note of one content that was added. It is safe for concurrent use.
func (d *draft) count(bytes int64) {
	d.r.addedFiles.Add(1)
	d.r.addedBytes.Add(bytes)
}

// publish gives a revision its files, sorted by path, and a tree, and forgets old ones.
func (d *draft) publish(ctx context.Context, revision string, files []file, date time.Time) error {
	if err := d.r.list(revision, files, date); err != nil {
		return err
	}
	if err := d.r.ready(ctx, revision, files, d.tree, false); err != nil {
		return err
	}
	d.r.newest.Store(&listed{revision, files})
	return d.r.prune(revision)
}

// end is called when a draft is published, or is not to be.
func (d *draft) end(files int) {
	if d.staging != "" {
		removeAll(d.staging)
	}
	_ = d.lock.Close()
	d.r.sweep(files)
}
