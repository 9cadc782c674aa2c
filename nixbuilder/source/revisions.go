package source

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
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

// listed are the files of a revision that was listed by this process. They do not change.
type listed struct {
	revision string
	files    []file
}

// filesName is the list of a revision's files, in its directory. Unlike the tree, it is always
// there.
const filesName = "files"

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

// list says what a revision consists of, which may be known, and its date, if it has one.
func (r *revisions) list(revision string, files []file, date time.Time) error {
	staging, err := os.MkdirTemp(r.dir, ".new-")
	if err != nil {
		return err
	}
	defer removeAll(staging)
	if err := writeFiles(filepath.Join(staging, filesName), files); err != nil {
		return err
	}
	if err := writeDate(staging, date); err != nil {
		return err
	}
	dir := filepath.Join(r.dir, revision)
	err = errors.Join(
		os.Chmod(staging, 0o755), os.WriteFile(filepath.Join(staging, lockName), nil, 0o644),
		os.Rename(staging, dir),
	)
	if exists(err) {
		err = os.Rename(filepath.Join(staging, filesName), filepath.Join(dir, filesName))
	}
	if err != nil {
		return fmt.Errorf("keeping revision %s: %w", revision, err)
	}
	return nil
}

// A listing is what gob makes of a revision's files. Of arrays it makes twice as many bytes, one by
// one.
type listing struct {
	Files  []file
	Hashes []byte // of all files, in order
}

func writeFiles(name string, files []file) error {
	l := listing{Files: files, Hashes: make([]byte, 0, len(files)*sha256.Size)}
	for _, f := range files {
		l.Hashes = append(l.Hashes, f.hash[:]...)
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	buffer := bufio.NewWriterSize(out, 1<<16)
	return errors.Join(gob.NewEncoder(buffer).Encode(l), buffer.Flush(), out.Close())
}

// files are those of a revision, sorted by path.
func (r *revisions) files(revision string) ([]file, error) {
	in, err := os.Open(filepath.Join(r.dir, revision, filesName))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if newest := r.newest.Load(); newest != nil && newest.revision == revision {
		return newest.files, nil
	}
	var l listing
	err = gob.NewDecoder(bufio.NewReaderSize(in, 1<<16)).Decode(&l)
	if err == nil && len(l.Hashes) != len(l.Files)*sha256.Size {
		err = fmt.Errorf("reading %s: it is damaged", in.Name())
	}
	if err != nil {
		return nil, err
	}
	for i := range l.Files {
		copy(l.Files[i].hash[:], l.Hashes[i*sha256.Size:])
	}
	return l.Files, nil
}

// newestFiles are those of the revision that was asked for last, sorted by path; none if there is
// none.
func (r *revisions) newestFiles() []file {
	for _, revision := range r.used() {
		if files, err := r.files(revision); err == nil {
			return files
		}
	}
	return nil
}

// last returns the revision that was listed last, none if that can't be read.
func (r *revisions) last() (revision string, files []file) {
	var latest time.Time
	for _, name := range r.used() {
		if info, err := os.Stat(filepath.Join(r.dir, name, filesName)); err == nil && info.ModTime().After(latest) {
			latest, revision = info.ModTime(), name
		}
	}
	files, err := r.files(revision)
	if err != nil {
		return "", nil
	}
	return revision, files
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

// hashOf is the revision of files that are sorted by path.
func hashOf(files []file) string {
	set := sha256.New()
	var line []byte
	for _, f := range files {
		line = strconv.AppendQuote(line[:0], f.Rel)
		line = fmt.Appendf(line, " %v %t %x\n", f.Status.Mode.Type(), f.executable(), f.hash)
		set.Write(line)
	}
	return fmt.Sprintf("%x", set.Sum(nil))
}
