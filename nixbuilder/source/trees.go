package source

import (
	"bufio"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stagingAge is how old an unfinished tree is when whoever made it must have been killed.
const stagingAge = time.Hour

// trees keeps the files of revisions on this machine: a directory for each, which appears whole and never changes. Several processes may
// share them.
type trees struct {
	dir  string
	keep int // how many stay, those that were asked for last
}

func newTrees(dir string, keep int) (*trees, error) {
	return &trees{dir, keep}, os.MkdirAll(dir, 0o755)
}

// What is in the directory of a revision.
const (
	treeName = "tree"
	dateName = "date" // a file with the revision's date, if it has one
	// a file with the paths that are not in the tree though they belong there, each with a zero byte behind it; there are seldom any
	absentName = "absent"
	walkName   = "walk" // a file with what a path's tree was copied from
)

// path is where the tree of a revision is, or would be.
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

// absent are the paths of what belongs into the tree of a revision but is not there.
func (t *trees) absent(revision string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(t.dir, revision, absentName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), nil
}

// writeAbsent says of the tree in dir, while it is filled, what it lacks.
func writeAbsent(dir string, paths []string) error {
	return os.WriteFile(filepath.Join(filepath.Dir(dir), absentName), []byte(strings.Join(paths, "\x00")+"\x00"), 0o644)
}

// have tells whether there is a tree of a revision, and keeps it for a while if so.
func (t *trees) have(revision string) (bool, error) {
	now := time.Now()
	err := os.Chtimes(filepath.Join(t.dir, revision), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// make has a revision's tree filled unless it is there. Fill gets an empty directory and returns the revision's date, if it has one.
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
	if !date.IsZero() {
		text, err := date.UTC().MarshalText()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(staging, dateName), text, 0o644); err != nil {
			return err
		}
	}
	return t.publish(staging, revision)
}

// stage makes a directory with an empty tree. Whoever fills it removes it in the end, published or not.
func (t *trees) stage() (string, error) {
	staging, err := os.MkdirTemp(t.dir, ".new-")
	if err != nil {
		return "", err
	}
	return staging, errors.Join(os.Chmod(staging, 0o755), os.Mkdir(filepath.Join(staging, treeName), 0o755))
}

// publish makes what is staged the tree of a revision, unless there is one, and removes the oldest trees.
func (t *trees) publish(staging, revision string) error {
	err := os.Rename(staging, filepath.Join(t.dir, revision))
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("keeping revision %s: %w", revision, err)
	}
	if _, err := t.have(revision); err != nil {
		return err
	}
	return t.prune(revision)
}

// prune removes the oldest trees, and what killed processes left behind.
func (t *trees) prune(current string) error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	used := make(map[string]time.Time, len(entries))
	var revisions []string
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() {
			continue // removed by another process; not a tree
		}
		switch used[entry.Name()] = info.ModTime(); {
		case entry.Name()[0] != '.':
			revisions = append(revisions, entry.Name())
		case time.Since(info.ModTime()) > stagingAge:
			removeAll(filepath.Join(t.dir, entry.Name()))
		}
	}
	slices.SortFunc(revisions, func(a, b string) int { return used[b].Compare(used[a]) })
	for i, revision := range revisions {
		if i >= t.keep && revision != current {
			removeAll(filepath.Join(t.dir, revision))
		}
	}
	return nil
}

// remember keeps what a path's tree was copied from, so that after a restart not all of it has to be read again. Without it only time is lost.
func (t *trees) remember(revision string, files []file) {
	dir := filepath.Join(t.dir, revision)
	out, err := os.CreateTemp(dir, walkName+"-")
	if err != nil {
		return
	}
	if errors.Join(gob.NewEncoder(out).Encode(files), out.Close()) == nil {
		err = os.Rename(out.Name(), filepath.Join(dir, walkName))
	}
	if err != nil {
		_ = os.Remove(out.Name())
	}
}

// recall returns what was remembered last, nothing if that can't be read.
func (t *trees) recall() (revision string, files map[string]file) {
	names, err := filepath.Glob(filepath.Join(t.dir, "*", walkName))
	if err != nil {
		return "", nil
	}
	var latest time.Time
	var name string
	for _, candidate := range names {
		if info, err := os.Stat(candidate); err == nil && info.ModTime().After(latest) {
			latest, name = info.ModTime(), candidate
		}
	}
	in, err := os.Open(name)
	if err != nil {
		return "", nil
	}
	defer in.Close()
	var list []file
	if gob.NewDecoder(bufio.NewReader(in)).Decode(&list) != nil {
		return "", nil
	}
	files = make(map[string]file, len(list))
	for _, f := range list {
		files[f.Rel] = f
	}
	return filepath.Base(filepath.Dir(name)), files
}

// removeAll cleans up. What can't be removed now is found again by the next prune.
func removeAll(dir string) { _ = os.RemoveAll(dir) }
