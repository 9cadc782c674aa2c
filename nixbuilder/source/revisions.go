package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// readyTrees is how many revisions have a tree even though nobody holds one: the newest, and
	// another that somebody asks for in turn.
	readyTrees = 2
	// sweepBytes is how much is added to the contents before they are searched for what no revision
	// has any more.
	sweepBytes = 64 << 20
	// sweepShare is which part of a set's files may be added before that: so searching costs each
	// of them little.
	sweepShare = 50
)

// revisions keep those of a path: a list of the files that each consists of, and the contents of
// all together. A tree, which is made of links to contents, costs as much as its directories do, so
// only few revisions have one; the others get it when they are asked for. The next revision's tree
// is made out of one that nobody holds, by what differs.
//
// What is on disk is whole at every moment: lists and contents appear by renaming, and a tree that
// is being changed has no revision's name.
type revisions struct {
	*trees
	contents *contents

	making sync.Mutex // one tree at a time
	newest atomic.Pointer[listed]

	addedFiles, addedBytes atomic.Int64 // since contents were searched
}

func newRevisions(dir string, keep int) (*revisions, error) {
	kept, err := newTrees(filepath.Join(dir, "trees"), keep)
	if err != nil {
		return nil, err
	}
	r := &revisions{trees: kept, contents: &contents{dir: filepath.Join(dir, "contents")}}
	r.addedBytes.Store(sweepBytes) // whoever was here before may not have come to it
	return r, nil
}

// put makes found, sorted by path, a revision with a tree. Contents of files for which have returns
// false are copied from where source says they are; hashes of all are noted. The error is a
// *missingContent if one that is known is not kept any more.
func (r *revisions) put(
	ctx context.Context, found []file, have func(i int) bool, source func(rel string) string,
) (revision string, err error) {
	known := 0
	for i := range found {
		if have(i) {
			known++
		}
	}
	d, err := r.begin(known == 0)
	if err != nil {
		return "", err
	}
	defer d.end(len(found))
	begun := time.Now()
	var failed error // of a directory
	err = parallel(ctx, len(found), func(i int) func() error {
		switch {
		case found[i].isDir() && failed == nil:
			failed = d.mkdir(found[i].Rel)
			return nil
		case have(i) || failed != nil:
			return nil
		}
		return func() error {
			added, err := r.contents.copy(source(found[i].Rel), d.spot(found[i].Rel), &found[i])
			d.count(added)
			return err
		}
	})
	if err := errors.Join(failed, err); err != nil {
		return "", err
	}
	revision = hashOf(found)
	for i, f := range found {
		if age := begun.Sub(time.Unix(f.Status.Ctime.Unix())); age < raceWindow && !f.isDir() {
			found[i].Status = status{Mode: f.Status.Mode} // equals nothing: looked at again next time
		}
	}
	return revision, d.publish(ctx, revision, found, time.Time{})
}

// parallel does the work that prepare returns for the numbers below n, in order, on several
// threads. There may be none.
func parallel(ctx context.Context, n int, prepare func(i int) (work func() error)) error {
	threads, unfailed := errgroup.WithContext(ctx)
	threads.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		if unfailed.Err() != nil {
			break
		}
		if work := prepare(i); work != nil {
			threads.Go(work)
		}
	}
	if err := threads.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// revive makes the tree of a revision that was kept, unless it is there. The error is ErrUnknownTag
// if the revision was not kept.
func (r *revisions) revive(ctx context.Context, revision string) error {
	if there, err := r.have(revision); there || err != nil {
		return err
	}
	lock, err := r.adding(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer lock.Close()
	files, err := r.files(revision)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrUnknownTag
	}
	if err == nil {
		err = r.ready(ctx, revision, files, "", true)
	}
	if missing := (*missingContent)(nil); errors.As(err, &missing) {
		return ErrUnknownTag
	}
	if err == nil {
		err = r.prune(revision)
	}
	return err
}

// ready makes the tree of a revision that is listed, or moves it from made if that is not empty,
// unless it is there. Whether the revision is older than others matters for what it is made of. The
// error is a *missingContent if some content is not there.
func (r *revisions) ready(ctx context.Context, revision string, files []file, made string, older bool) error {
	r.making.Lock()
	defer r.making.Unlock()
	if there, err := r.have(revision); there || err != nil {
		return err
	}
	if made == "" {
		staging, err := os.MkdirTemp(r.dir, ".new-")
		if err != nil {
			return err
		}
		defer removeAll(staging)
		made = filepath.Join(staging, treeName)
		was, taken := r.take(revision, made, older)
		if !taken {
			err = os.Mkdir(made, 0o755)
		}
		if err == nil {
			err = r.build(ctx, made, was, files)
		}
		if err != nil {
			return err
		}
	}
	if err := os.Rename(made, r.path(revision)); err != nil && !exists(err) {
		return fmt.Errorf("keeping revision %s: %w", revision, err)
	}
	_, err := r.have(revision)
	return err
}

// take moves the tree of another revision to where nothing is yet, and returns what the tree
// consists of. It takes one that nobody holds: for a new revision the one that was asked for last,
// which has most in common with it; for an older one the one that was not asked for longest, if it
// is not the only one.
func (r *revisions) take(revision, to string, older bool) (files []file, ok bool) {
	others := slices.DeleteFunc(r.used(), func(other string) bool {
		_, err := os.Stat(r.path(other))
		return err != nil || other == revision
	})
	if older && len(others) < readyTrees {
		return nil, false
	}
	if older {
		slices.Reverse(others)
	}
	for _, other := range others {
		files, err := r.files(other)
		if err == nil && r.unheld(other, func(tree string) bool { return os.Rename(tree, to) == nil }) {
			return files, true
		}
	}
	return nil, false
}

// unheld does something to a tree unless somebody holds it. What it returns is whether that was so,
// and succeeded.
func (r *revisions) unheld(revision string, do func(tree string) bool) bool {
	lock, err := lockTree(filepath.Join(r.dir, revision), unix.LOCK_EX|unix.LOCK_NB)
	if lock == nil || err != nil {
		return false
	}
	defer lock.Close()
	return do(r.path(revision))
}

// build makes a tree of some files one of others. Both are sorted by path, so that a directory
// comes before what it holds.
func (r *revisions) build(ctx context.Context, tree string, was, files []file) error {
	stays := make([]bool, len(files)) // what is there already
	var gone []string
	for i, j := 0, 0; i < len(was); i++ {
		for j < len(files) && files[j].Rel < was[i].Rel {
			j++
		}
		if j < len(files) && files[j].Rel == was[i].Rel && sameContent(files[j], was[i]) {
			stays[j] = true
		} else {
			gone = append(gone, was[i].Rel)
		}
	}
	for i := len(gone) - 1; i >= 0; i-- {
		if err := os.Remove(filepath.Join(tree, gone[i])); err != nil {
			return err
		}
	}
	var failed error // of a directory
	err := parallel(ctx, len(files), func(i int) func() error {
		target := filepath.Join(tree, files[i].Rel)
		switch {
		case stays[i] || failed != nil:
			return nil
		case files[i].isDir():
			failed = os.Mkdir(target, 0o755) // before what it holds
			return nil
		}
		return func() error {
			err := r.contents.link(files[i], target)
			if errors.Is(err, fs.ErrNotExist) {
				err = &missingContent{files[i].Rel}
			}
			return err
		}
	})
	return errors.Join(failed, err)
}

// missingContent is that the content of a file is not kept any more.
type missingContent struct{ rel string }

func (m *missingContent) Error() string { return fmt.Sprintf("the content of %s is gone", m.rel) }

// prune forgets the oldest revisions, and takes away the trees of those that stay without being
// used.
func (r *revisions) prune(current string) error {
	if err := r.trees.prune(current); err != nil {
		return err
	}
	ready := 0
	for _, revision := range r.used() {
		if _, err := os.Stat(r.path(revision)); err != nil {
			continue
		}
		if ready++; ready <= readyTrees || revision == current {
			continue
		}
		r.unheld(revision, func(tree string) bool { r.discard(tree); return true })
	}
	return nil
}

// sweep removes contents that no revision has, now and then, unless another process is adding some:
// it will see to it.
func (r *revisions) sweep(files int) {
	if r.addedBytes.Load() < sweepBytes && r.addedFiles.Load()*sweepShare < int64(files) {
		return
	}
	lock, err := r.adding(unix.LOCK_EX | unix.LOCK_NB)
	if lock == nil || err != nil {
		return
	}
	defer lock.Close()
	wanted := make(map[string]bool, files)
	for _, revision := range r.used() {
		list, err := r.files(revision)
		if err != nil {
			return
		}
		for _, f := range list {
			wanted[nameOf(f)] = true
		}
	}
	if r.contents.sweep(wanted) == nil {
		r.addedFiles.Store(0)
		r.addedBytes.Store(0)
	}
}
