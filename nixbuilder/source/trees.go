package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
)

// stagingAge is the age at which an unfinished tree must be a killed process's.
const stagingAge = time.Hour

// trees store the files of revisions on this machine: a directory for each, which appears whole and
// never changes. Several processes may share them. None of them removes or changes a tree that
// somebody holds.
type trees struct {
	dir   string
	keep  int                // how many stay beside those that are held, the ones that were asked for last
	fills singleflight.Group // by revision
}

func newTrees(dir string, keep int) (*trees, error) {
	return &trees{dir: dir, keep: keep}, os.MkdirAll(dir, 0o755)
}

// What is in the directory of a revision.
const (
	treeName = "tree"
	dateName = "date" // a file with the revision's date, if it has one
	// These two files list paths, each with a zero byte behind it: of what belongs into the tree
	// but is not there, and of files that only point to content elsewhere. Most revisions have
	// neither.
	absentName   = "absent"
	pointersName = "pointers"
	// lockName is an empty file. Whoever uses the tree has a shared lock on it (flock), whoever
	// removes the tree an exclusive one.
	lockName = "lock"
)

// path is the name of a revision's tree, whether it is there or not.
func (t *trees) path(revision string) string { return filepath.Join(t.dir, revision, treeName) }

// date is when a revision that is there was made, zero if it does not say.
func (t *trees) date(revision string) (date time.Time, err error) {
	text, err := os.ReadFile(filepath.Join(t.dir, revision, dateName))
	if errors.Is(err, fs.ErrNotExist) {
		return date, nil
	}
	if err == nil {
		err = date.UnmarshalText(text)
	}
	return date, err
}

// paths reads one of the files that list paths, absentName or pointersName.
func (t *trees) paths(revision, name string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(t.dir, revision, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), nil
}

// writePaths writes a file that paths reads, for the tree in dir, unless there are no paths.
func writePaths(dir, name string, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(filepath.Dir(dir), name), []byte(strings.Join(paths, "\x00")+"\x00"), 0o644)
}

// have tells whether a revision has a tree. If so, it sets the time of the lock, which is when the
// revision was asked for last.
func (t *trees) have(revision string) (bool, error) {
	if _, err := os.Stat(t.path(revision)); err != nil {
		return false, ignore(err, fs.ErrNotExist)
	}
	now := time.Now()
	err := os.Chtimes(filepath.Join(t.dir, revision, lockName), now, now)
	return true, ignore(err, fs.ErrNotExist) // it may be from before there were locks
}

// lease keeps the tree of a revision as it is until release is called. There is false if the
// revision has none.
func (t *trees) lease(revision string) (release func(), there bool, err error) {
	lock, err := lockTree(filepath.Join(t.dir, revision), unix.LOCK_SH)
	if lock == nil || err != nil {
		return nil, false, err
	}
	there, err = t.have(revision)
	if !there || err != nil {
		_ = lock.Close()
		return nil, false, err
	}
	return func() { _ = lock.Close() }, true, nil
}

// makeHeld makes a revision's tree as make does, and holds it. All who want the tree meanwhile wait
// for the one that is being made, and get its error.
func (t *trees) makeHeld(revision string, fill func(dir string) (time.Time, error)) (release func(), err error) {
	for {
		_, err, _ := t.fills.Do(revision, func() (any, error) { return nil, t.make(revision, fill) })
		if err != nil {
			return nil, err
		}
		// In between, another process may have removed it.
		release, there, err := t.lease(revision)
		if there || err != nil {
			return release, err
		}
	}
}

// lockTree locks a directory with flock(2). It returns nil if the directory is not there, or if
// others have locked it and how says not to wait. A process that ends unlocks what it has locked.
func lockTree(dir string, how int) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, ignore(err, fs.ErrNotExist)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(lock.Fd()), how)
	}
	if err != nil {
		_ = lock.Close()
		return nil, ignore(&fs.PathError{Op: "lock", Path: lock.Name(), Err: err}, unix.EWOULDBLOCK)
	}
	// While this waited for the lock, the directory may have been renamed, to be removed.
	locked, err := lock.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(lock.Name()); err == nil && os.SameFile(locked, now) {
			return lock, nil
		}
	}
	return nil, errors.Join(ignore(err, fs.ErrNotExist), lock.Close())
}

// remove removes a revision, unless somebody holds its tree or is removing it.
func (t *trees) remove(revision string) bool {
	dir := filepath.Join(t.dir, revision)
	lock, err := lockTree(dir, unix.LOCK_EX|unix.LOCK_NB)
	if lock == nil || err != nil {
		return false // the next prune tries again
	}
	defer lock.Close()
	t.discard(dir)
	return true
}

// discard removes a directory that is locked. Once it is renamed, nobody finds it any more.
func (t *trees) discard(dir string) {
	old, err := os.MkdirTemp(t.dir, ".old-")
	if err != nil {
		return
	}
	defer removeAll(old)
	_ = os.Rename(dir, filepath.Join(old, filepath.Base(dir)))
}

// ignore returns err unless it is the expected one.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// make makes a revision's tree unless it is there. Fill puts the files into an empty directory and
// returns the revision's date, if it has one.
func (t *trees) make(revision string, fill func(dir string) (time.Time, error)) error {
	if there, err := t.have(revision); there || err != nil {
		return err
	}
	staging, err := t.stage()
	if err != nil {
		return err
	}
	defer removeAll(staging)
	date, err := fill(filepath.Join(staging, treeName))
	if err != nil {
		return err
	}
	if err := writeDate(staging, date); err != nil {
		return err
	}
	return t.publish(staging, revision)
}

// writeDate writes when a revision was made into the directory that becomes the revision's.
func writeDate(dir string, date time.Time) error {
	if date.IsZero() {
		return nil
	}
	text, err := date.UTC().MarshalText()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, dateName), text, 0o644)
}

// stage makes a directory with an empty tree. The caller removes the directory in the end,
// published or not.
func (t *trees) stage() (string, error) {
	staging, err := os.MkdirTemp(t.dir, ".new-")
	if err != nil {
		return "", err
	}
	return staging, errors.Join(
		os.Chmod(staging, 0o755),
		os.Mkdir(filepath.Join(staging, treeName), 0o755),
		os.WriteFile(filepath.Join(staging, lockName), nil, 0o644),
	)
}

// publish makes a staged tree that of a revision, unless it has one, and removes the oldest trees.
func (t *trees) publish(staging, revision string) error {
	dir := filepath.Join(t.dir, revision)
	err := os.Rename(staging, dir)
	if _, treeErr := os.Stat(t.path(revision)); exists(err) && errors.Is(treeErr, fs.ErrNotExist) {
		t.remove(revision) // somebody has tidied up, and not removed all of it
		err = os.Rename(staging, dir)
	}
	if err != nil && !exists(err) {
		return fmt.Errorf("keeping revision %s: %w", revision, err)
	}
	if _, err := t.have(revision); err != nil {
		return err
	}
	return t.prune(revision)
}

// exists tells whether a directory could not be renamed because the new name is taken.
func exists(err error) bool { return errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) }

// used lists the revisions that are stored, the one that was asked for last first.
func (t *trees) used() (revisions []string) {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return nil
	}
	used := make(map[string]time.Time, len(entries))
	for _, entry := range entries {
		if !entry.IsDir() || entry.Name()[0] == '.' {
			continue
		}
		revisions = append(revisions, entry.Name())
		if info, err := os.Stat(filepath.Join(t.dir, entry.Name(), lockName)); err == nil {
			used[entry.Name()] = info.ModTime()
		}
	}
	slices.SortStableFunc(revisions, func(a, b string) int { return used[b].Compare(used[a]) })
	return revisions
}

// prune removes the oldest revisions that nobody holds, and what killed processes left.
func (t *trees) prune(current string) error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && entry.IsDir() && entry.Name()[0] == '.' && time.Since(info.ModTime()) > stagingAge {
			removeAll(filepath.Join(t.dir, entry.Name()))
		}
	}
	for i, revision := range t.used() {
		if i >= t.keep && revision != current {
			t.remove(revision)
		}
	}
	return nil
}

// removeAll cleans up. What can't be removed now is found again by the next prune.
func removeAll(dir string) { _ = os.RemoveAll(dir) }
