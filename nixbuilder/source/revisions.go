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
	// readyTrees is how many revisions have a tree although nobody holds one: the newest, and
	// another that clients ask for in turn with it.
	readyTrees = 2
	// sweepBytes is how much is added to the contents before those are searched for what no
	// revision has any more.
	sweepBytes = 64 << 20
	// sweepShare is which part of a set's files, 1/50, may be added before that. So searching costs
	// each of them little.
	sweepShare = 50
)

// revisions store the revisions of a set: for each a list of its files, and the contents of all of
// them together. A tree is made of links to contents and costs as much as its directories do, so
// few revisions have one. The others get theirs when they are asked for. The next revision's tree
// is made from one that nobody holds, by changing what differs.
//
// What is on disk is whole at every moment. Lists and contents appear by renaming, and a tree that
// is being changed has no revision's name.
type revisions struct {
	*trees
	contents *contents

	making sync.Mutex // one tree at a time
	newest atomic.Pointer[listed]

	addedFiles, addedBytes atomic.Int64 // since the contents were searched
}

func newRevisions(dir string, keep int) (*revisions, error) {
	kept, err := newTrees(filepath.Join(dir, "trees"), keep)
	if err != nil {
		return nil, err
	}
	r := &revisions{trees: kept, contents: &contents{dir: filepath.Join(dir, "contents")}}
	r.addedBytes.Store(sweepBytes) // the process before may have ended without a search
	return r, nil
}

// put makes the files in found, sorted by path, a revision with a tree. It copies the files for
// which have is false from where source says they are, and sets the hashes of all. It fails with a
// *missingContent if a file that have is true for is not stored any more.
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
			found[i].Status = status{Mode: f.Status.Mode} // equals no status: the next walk reads the file again
		}
	}
	return revision, d.publish(ctx, revision, found, time.Time{})
}

// parallel calls prepare for each number below n, in order, and runs the work that it returns, if
// any, on several threads.
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

// revive makes the tree of a revision that is listed, unless it is there. It fails with
// ErrUnknownTag if the revision is not listed.
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
	if missing := (*missingContent)(nil); errors.As(err, &missing) || errors.Is(err, errNotListed) {
		return ErrUnknownTag
	}
	if err == nil {
		err = r.prune(revision)
	}
	return err
}

// ready gives a revision that is listed its tree, unless it has one. Made is a whole tree to move
// there; empty: one is made, and whether the revision is older than others decides from what. It
// fails with a *missingContent if a content is gone, and with errNotListed if another process has
// removed the revision meanwhile.
func (r *revisions) ready(ctx context.Context, revision string, files []file, made string, older bool) error {
	r.making.Lock()
	defer r.making.Unlock()
	lock, err := lockTree(filepath.Join(r.dir, revision), unix.LOCK_SH)
	if err != nil {
		return err
	}
	if lock == nil {
		return errNotListed
	}
	defer lock.Close()
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
		was, taken := r.reuseTree(revision, made, older)
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
	_, err = r.have(revision)
	return err
}

// errNotListed means that a revision is not stored any more.
var errNotListed = errors.New("the revision is not listed any more")

// reuseTree moves the tree of another revision, which nobody holds, to a free name, and returns its
// files. For a new revision it takes the tree that was asked for last, as that has most in common
// with it. For an older one it takes the tree that was not asked for longest, if there are others.
func (r *revisions) reuseTree(revision, to string, older bool) (files []file, ok bool) {
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

// unheld does something to a tree unless somebody holds it. It returns whether it did, with
// success.
func (r *revisions) unheld(revision string, do func(tree string) bool) bool {
	lock, err := lockTree(filepath.Join(r.dir, revision), unix.LOCK_EX|unix.LOCK_NB)
	if lock == nil || err != nil {
		return false
	}
	defer lock.Close()
	return do(r.path(revision))
}

// build changes a tree that has the files of was into one of files. Both are sorted by path, so a
// directory comes before what it holds.
func (r *revisions) build(ctx context.Context, tree string, was, files []file) error {
	stays := make([]bool, len(files)) // by index of files: it is there already
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

// A missingContent means that the content of a file is not stored any more.
type missingContent struct{ rel string }

func (m *missingContent) Error() string { return fmt.Sprintf("the content of %s is gone", m.rel) }

// prune forgets the oldest revisions, and removes trees beyond readyTrees that nobody holds.
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

// sweep removes, now and then, contents that no revision has. It leaves that to another process
// that is adding some.
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
