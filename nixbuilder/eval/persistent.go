package eval

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
)

const (
	// persistentKept is how many persistent stores stay, those used last: so many of sets that
	// share, and so many of others.
	persistentKept = 4
	// persistentBytes is how much a persistent store may hold before it is made anew. The nixpkgs
	// of one revision takes 0.5 GB.
	persistentBytes = 4 << 30
	// weighedEvery is how many new revisions of a set pass between two looks at the size of its
	// store. A look takes a second if the store is large.
	weighedEvery = 8
	// revisionsKnown is how many revisions are known to have been evaluated.
	revisionsKnown = 1000
	// fetchedName is the directory of all persistent stores.
	fetchedName = "fetched"
	// sharedPrefix begins the names of stores that sets share.
	sharedPrefix = "shared-"
	// removedPrefix begins the names of stores that are being removed.
	removedPrefix = ".removed-"
)

// revisions know which package sets were evaluated with which persistent stores. The first
// evaluation of each, which may fetch, is alone, so that nothing is fetched twice. They are safe
// for concurrent use.
type revisions struct {
	mu    sync.Mutex
	known map[[2]string]*revision // by the directories of store and set
	count map[string]int          // of new ones, by store
}

type revision struct {
	slot limit.Slots // one: for evaluating it, while done is false
	done bool
}

func newRevisions() *revisions {
	return &revisions{known: make(map[[2]string]*revision), count: make(map[string]int)}
}

// acquire waits until an evaluation may begin: not at all if the set was evaluated before, else
// until nobody else evaluates it. Done ends the evaluation; evaluated says that it took place. Nth
// counts the sets that were new to the store, from 1; it is 0 for a set that was not.
func (r *revisions) acquire(ctx context.Context, store, set string) (nth int, done func(evaluated bool), err error) {
	r.mu.Lock()
	key := [2]string{store, set}
	this, ok := r.known[key]
	if !ok {
		if len(r.known) >= revisionsKnown {
			clear(r.known) // at worst, something is fetched twice
		}
		this = &revision{slot: limit.NewSlots(1)}
		r.known[key] = this
		r.count[store]++
		nth = r.count[store]
	}
	r.mu.Unlock()
	release, err := this.slot.Acquire(ctx)
	if err != nil {
		return 0, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if this.done {
		release()
		return nth, func(bool) {}, nil
	}
	return nth, func(evaluated bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		this.done = this.done || evaluated
		release()
	}, nil
}

// acquireStore returns when the session may use its persistent store, which stays until release. A
// store that holds too much is removed: sometimes before a session, and after one that has filled
// it.
func (s *session) acquireStore(ctx context.Context) (release func(), err error) {
	dir := s.store.cache
	nth, done, err := s.revisions.acquire(ctx, dir, s.path)
	if err != nil {
		return nil, fmt.Errorf("evaluating a package set: %w", err)
	}
	if nth%weighedEvery == 1 && cachedir.Usage(dir) > s.persistentBytes {
		remove(dir)
	}
	fresh, unlock, err := s.hold(s.store)
	if err != nil {
		done(false)
		return nil, err
	}
	if fresh && s.store.fetches {
		s.mayFetch()
	}
	return func() {
		unlock()
		if s.overgrown {
			remove(dir)
		}
		done(true)
	}, nil
}

// hold keeps a persistent store from being removed until release is called. It makes the store's
// directory if need be; the caller that did is told that it is fresh. Then the stores that were not
// used for longest are removed.
func (e *Evaluator) hold(s evalStore) (fresh bool, release func(), err error) {
	all := filepath.Dir(s.cache)
	for {
		if !s.exists() {
			if err := e.makePersistent(s); err != nil {
				return false, nil, fmt.Errorf("making a store for what is fetched: %w", err)
			}
			fresh = true
		}
		lock, err := lockDir(s.cache, unix.LOCK_SH)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by another process, or by another evaluation
		}
		if err != nil {
			return false, nil, fmt.Errorf("opening a store for what is fetched: %w", err)
		}
		now := time.Now()
		err = os.Chtimes(s.cache, now, now)
		if fresh && err == nil {
			err = removeOldest(all)
		}
		if err != nil {
			lock.Close()
			return false, nil, fmt.Errorf("opening a store for what is fetched: %w", err)
		}
		return fresh, func() { lock.Close() }, nil
	}
}

// makePersistent makes the directory of a persistent store. If others do so at the same time,
// theirs is as good.
func (e *Evaluator) makePersistent(s evalStore) error {
	if err := os.MkdirAll(filepath.Dir(s.cache), 0o755); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(filepath.Dir(s.cache), removedPrefix)
	if err != nil {
		return err
	}
	uid, gid := e.runner.ConfinedUser(s.apart)
	if err := os.Chown(staging, uid, gid); err != nil {
		return err
	}
	err = os.Rename(staging, s.cache)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return os.Remove(staging)
	}
	return err
}

// lockDir opens a directory and locks it (flock(2)). It fails with fs.ErrNotExist if the directory
// no longer has that name.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	var locked, there os.FileInfo
	if err == nil {
		locked, err = f.Stat()
	}
	if err == nil {
		there, err = os.Lstat(dir)
	}
	if err == nil && !os.SameFile(locked, there) {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// removeOldest removes the persistent stores beyond persistentKept, and what is left of others
// whose removal was interrupted.
func removeOldest(all string) error {
	entries, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return modified(b).Compare(modified(a)) })
	kept := make(map[bool]int) // by whether sets share them: what clients choose takes no room from the operator's
	for _, entry := range entries {
		name, shared := filepath.Join(all, entry.Name()), strings.HasPrefix(entry.Name(), sharedPrefix)
		switch {
		case strings.HasPrefix(entry.Name(), removedPrefix):
			if time.Since(modified(entry)) > time.Hour {
				removeTree(name)
			}
		case kept[shared] < persistentKept:
			kept[shared]++
		default:
			remove(name)
		}
	}
	return nil
}

// remove removes a persistent store. It returns false if the store is in use.
func remove(dir string) bool {
	lock, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return false
	}
	defer lock.Close()
	gone := filepath.Join(filepath.Dir(dir), removedPrefix+rand.Text())
	if os.Rename(dir, gone) != nil {
		return false
	}
	removeTree(gone)
	return true
}

// Dir is where persistent stores are.
func (e *Evaluator) Dir() string { return filepath.Join(e.options.ScratchDir, fetchedName) }

// Items are persistent stores.
func (e *Evaluator) Items() (items []cachedir.Item) {
	entries, err := os.ReadDir(e.Dir())
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), removedPrefix) {
			items = append(items, cachedir.Item{
				Used:   modified(entry),
				Remove: func() bool { return remove(filepath.Join(e.Dir(), entry.Name())) },
			})
		}
	}
	return items
}

// removeTree removes a directory, also what Nix has made read-only. What can't be removed is tried
// again some other time.
func removeTree(dir string) {
	if os.Geteuid() != 0 { // root need not ask, and had better not change what a link leads to
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if entry != nil && entry.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		})
	}
	_ = os.RemoveAll(dir)
}

func modified(entry os.DirEntry) time.Time {
	info, err := entry.Info()
	if err != nil {
		return time.Time{} // it is gone
	}
	return info.ModTime()
}
