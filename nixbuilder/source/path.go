package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// keptRevisions is how many revisions stay, the ones that were asked for last.
	keptRevisions = 4
	// raceWindow is how old a change must be before a file's times are believed to tell it from the next change: kernels
	// stamp files with a clock that ticks every few milliseconds.
	raceWindow = time.Second
	// believed is how long a watch is believed that nothing has happened, for what it is not told.
	believed = 10 * time.Second
)

// Path is a package set in a directory with a default.nix or flake.nix, or in one .nix file, on this machine. Its revision is the
// SHA-256 of its names, kinds, executable bits and contents. A .git directory at its top is no part of it. Pin walks the
// tree, unless the kernel says that nothing has happened there since the last walk, which was a few seconds ago; only files whose status changed are read
// again, even if the process ended in between, and copies share what is the same in them.
type Path struct {
	origin string // what is watched
	single bool   // it is a .nix file
	kept   *revisions

	walking sync.Mutex // one walk at a time; guards what follows
	files   []file     // of pinned, sorted by path
	pinned  Pinned
	started time.Time // when the walk that gave pinned began
	watch   *watch    // of what that walk found; nil: none
	top     place     // of that walk
	unseen  bool      // the set can't be watched
}

// A place is where a name leads to.
type place struct{ device, inode uint64 }

func placeOf(name string) (place, error) {
	var stat unix.Stat_t
	if err := unix.Stat(name, &stat); err != nil {
		return place{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return place{stat.Dev, stat.Ino}, nil
}

// NewPath watches a directory or .nix file and keeps its copies below the directory copies, which it makes if need be.
func NewPath(origin, copies string) (*Path, error) {
	origin, err := filepath.Abs(origin)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(origin)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		_, err := os.Stat(filepath.Join(origin, "default.nix"))
		if _, flakeErr := os.Stat(filepath.Join(origin, "flake.nix")); err != nil && flakeErr != nil {
			return nil, fmt.Errorf("%s has neither a default.nix nor a flake.nix", origin)
		}
	} else if filepath.Ext(origin) != ".nix" {
		return nil, fmt.Errorf("%s is neither a directory with a default.nix or flake.nix nor a .nix file", origin)
	}
	id := sha256.Sum256([]byte(origin))
	kept, err := newRevisions(filepath.Join(copies, hex.EncodeToString(id[:8])), keptRevisions)
	if err != nil {
		return nil, err
	}
	p := &Path{origin: origin, single: !info.IsDir(), kept: kept}
	p.pinned.Revision, p.files = kept.last()
	p.pinned = p.at(p.pinned.Revision)
	return p, nil
}

// Current knows of latest what the kernel tells. The tag of a revision is the revision.
func (p *Path) Current(tag string) (revision string, ok bool) {
	if tag != Latest {
		return tag, revisionTag.MatchString(tag)
	}
	if !p.walking.TryLock() {
		return "", false
	}
	defer p.walking.Unlock()
	return p.pinned.Revision, p.quiet()
}

var revisionTag = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Pin copies what changed since the last time. An older revision can be had for as long as it is kept.
func (p *Path) Pin(ctx context.Context, tag string) (Pinned, error) {
	if tag != Latest {
		return p.old(ctx, tag)
	}
	asked := time.Now()
	p.walking.Lock()
	defer p.walking.Unlock()
	if p.started.After(asked) {
		return p.pinned, nil // a walk that began after this question answers it too
	}
	if p.quiet() {
		return p.pinned, nil
	}
	started := time.Now()
	p.rewatch()
	pinned, err := p.copy(ctx)
	if err != nil {
		p.unwatch()
		return Pinned{}, fmt.Errorf("reading the package set: %w", err)
	}
	if p.watch != nil && p.watch.failed.Load() {
		p.unwatch()
		p.unseen = true
	}
	p.pinned, p.started = pinned, started
	return pinned, nil
}

// quiet tells whether what was pinned last is still what there is, as far as that can be told without a walk.
func (p *Path) quiet() bool {
	if p.watch == nil || time.Since(p.started) > believed || !p.watch.quiet() {
		return false
	}
	// The origin may be a symbolic link, or lie behind some, and the copy was perhaps removed.
	top, err := placeOf(p.origin)
	if err != nil || top != p.top {
		return false
	}
	_, err = placeOf(p.pinned.Path)
	return err == nil
}

// rewatch begins a new watch, unless the set can't be watched, or is a single file, which is looked at as fast.
func (p *Path) rewatch() {
	p.unwatch()
	if p.unseen || p.single {
		return
	}
	if w, err := newWatch(); err == nil {
		p.watch = w
	}
}

func (p *Path) unwatch() {
	if p.watch != nil {
		p.watch.close()
		p.watch = nil
	}
}

func (p *Path) old(ctx context.Context, tag string) (Pinned, error) {
	if !revisionTag.MatchString(tag) {
		return Pinned{}, ErrUnknownTag
	}
	if err := p.kept.revive(ctx, tag); err != nil {
		return Pinned{}, err
	}
	return p.at(tag), nil
}

// Hold makes the tree of a revision again if an edit has taken it since Pin. There is none if the set has changed several times.
func (p *Path) Hold(ctx context.Context, pinned Pinned) (release func(), err error) {
	for {
		release, there, err := p.kept.hold(pinned.Revision)
		if there || err != nil {
			return release, err
		}
		if err := p.kept.revive(ctx, pinned.Revision); errors.Is(err, ErrUnknownTag) {
			return nil, fmt.Errorf("the package set has changed several times, and revision %s is gone", pinned.Revision)
		} else if err != nil {
			return nil, err
		}
	}
}

func (p *Path) at(revision string) Pinned {
	name := filepath.Base(p.origin)
	pinned := Pinned{Name: "path:" + name, Revision: revision, Path: p.kept.path(revision)}
	if p.single {
		pinned.Path = filepath.Join(pinned.Path, name)
	}
	return pinned
}

// copy walks the origin, and makes a copy of it if there is none of that revision.
func (p *Path) copy(ctx context.Context) (Pinned, error) {
	origin, err := filepath.EvalSymlinks(p.origin)
	if err != nil {
		return Pinned{}, err
	}
	if p.top, err = placeOf(origin); err != nil {
		return Pinned{}, err
	}
	found, err := p.walk(ctx, origin)
	if err != nil {
		return Pinned{}, err
	}
	if !p.changed(found) {
		if there, err := p.kept.have(p.pinned.Revision); there || err != nil {
			return p.pinned, err
		}
	}
	source := func(rel string) string { return filepath.Join(origin, rel) }
	if p.single {
		source = func(string) string { return origin }
	}
	revision, err := p.kept.put(ctx, found, p.known(found), source)
	if err != nil {
		return Pinned{}, err
	}
	p.files = found
	return p.at(revision), nil
}

func (p *Path) walk(ctx context.Context, origin string) ([]file, error) {
	if !p.single {
		return walk(ctx, origin, p.watch)
	}
	status, err := statusAt(unix.AT_FDCWD, origin)
	return []file{{Rel: filepath.Base(p.origin), Status: status}}, err
}

// changed tells whether a walk found anything else than the last one that was copied.
func (p *Path) changed(found []file) bool {
	return !slices.EqualFunc(found, p.files, func(a, b file) bool { return a.Rel == b.Rel && a.Status == b.Status })
}

// known notes the hashes of files whose status is still what it was when they were copied last, and tells which those are.
func (p *Path) known(found []file) func(i int) bool {
	known := make([]bool, len(found))
	j := 0
	for i := range found {
		for j < len(p.files) && p.files[j].Rel < found[i].Rel {
			j++
		}
		if j < len(p.files) && p.files[j].Rel == found[i].Rel && p.files[j].Status == found[i].Status {
			found[i].SHA256, known[i] = p.files[j].SHA256, true
		}
	}
	return func(i int) bool { return known[i] }
}
