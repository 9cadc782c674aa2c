package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// keptRevisions is how many copies of a path stay, the newest first. An evaluation may still read from the last ones.
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
// again, even if the process ended in between, and hard links share the others between copies.
type Path struct {
	origin string // what is watched
	single bool   // it is a .nix file
	copies *trees

	walking sync.Mutex      // one walk at a time; guards what follows
	files   map[string]file // of pinned, by path
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
	kept, err := newTrees(filepath.Join(copies, hex.EncodeToString(id[:8])), keptRevisions)
	if err != nil {
		return nil, err
	}
	p := &Path{origin: origin, single: !info.IsDir(), copies: kept}
	p.pinned.Revision, p.files = kept.recall()
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

// Pin copies what changed since the last time. An older revision can be had for as long as its copy is kept.
func (p *Path) Pin(ctx context.Context, tag string) (Pinned, error) {
	if tag != Latest {
		return p.old(tag)
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

func (p *Path) old(tag string) (Pinned, error) {
	if !revisionTag.MatchString(tag) {
		return Pinned{}, ErrUnknownTag
	}
	if there, err := p.copies.have(tag); err != nil {
		return Pinned{}, err
	} else if !there {
		return Pinned{}, ErrUnknownTag
	}
	return p.at(tag), nil
}

func (p *Path) at(revision string) Pinned {
	name := filepath.Base(p.origin)
	pinned := Pinned{Name: "path:" + name, Revision: revision, Path: p.copies.path(revision)}
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
	if _, err := os.Stat(p.pinned.Path); err != nil {
		p.files = nil // there is nothing to share files with
	}
	if !p.changed(found) {
		return p.pinned, nil
	}
	slices.SortFunc(found, func(a, b file) int { return strings.Compare(a.Rel, b.Rel) }) // a directory comes before what it holds
	staging, err := p.copies.stage()
	if err != nil {
		return Pinned{}, err
	}
	defer removeAll(staging)
	begun := time.Now()
	c := &copying{known: p.files, last: p.copies.path(p.pinned.Revision), to: filepath.Join(staging, treeName), found: found}
	c.source = func(rel string) string { return filepath.Join(origin, rel) }
	if p.single {
		c.source = func(string) string { return origin }
	}
	if err := c.changed(ctx); err != nil {
		return Pinned{}, err
	}
	pinned := p.at(revision(found))
	there, err := p.copies.have(pinned.Revision)
	if err == nil && !there {
		if err = c.unchanged(ctx); err == nil {
			err = p.copies.publish(staging, pinned.Revision)
		}
	}
	if err != nil {
		return Pinned{}, err
	}
	p.files = make(map[string]file, len(found))
	for i, f := range found {
		if age := begun.Sub(time.Unix(f.Status.Ctime.Unix())); age < raceWindow && !f.isDir() {
			found[i].Status = status{} // matches nothing: looked at again next time
		}
		p.files[f.Rel] = found[i]
	}
	p.copies.remember(pinned.Revision, found)
	return pinned, nil
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
	return len(found) != len(p.files) || slices.ContainsFunc(found, func(f file) bool { return p.files[f.Rel].Status != f.Status })
}

// revision is the hash of files that are sorted by path.
func revision(files []file) string {
	set := sha256.New()
	for _, f := range files {
		fmt.Fprintf(set, "%q %v %t %x\n", f.Rel, f.Status.Mode.Type(), f.executable(), f.SHA256)
	}
	return hex.EncodeToString(set.Sum(nil))
}
