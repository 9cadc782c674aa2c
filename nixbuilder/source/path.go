package source

import (
	"cmp"
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

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	// raceWindow is how old a file's change must be before its times tell it from the next change:
	// kernels stamp files with a clock that ticks every few milliseconds.
	raceWindow = time.Second
	// believed is how long a watch may replace a walk: some changes the kernel does not report.
	believed = 10 * time.Second
	// watchAgain is how long it takes until watching is tried again after a failure: trying costs
	// as much as a walk.
	watchAgain = 5 * time.Minute
)

// Path is a package set on this machine: a directory with a default.nix or flake.nix, or one .nix
// file. Its revision is the SHA-256 of its names, kinds, executable bits and contents. A .git
// directory at its top is no part of it.
//
// Pin walks the tree, unless the kernel says that nothing has changed since the last walk, a few
// seconds ago. It reads only files whose status has changed, also across restarts, and copies share
// equal contents.
type Path struct {
	origin  string // what is watched
	single  bool   // it is a .nix file
	watches *Watches
	kept    *revisions
	grown   func()

	walking sync.Mutex // one walk at a time; guards what follows
	files   []file     // of pinned, sorted by path
	pinned  Pinned
	started time.Time // when the look that gave pinned began
	walked  time.Time // when the last walk over all files began
	watch   *watch    // of what that walk found; nil: none
	top     place     // of that walk
	unseen  error     // why the set can't be watched; nil: it can
	tried   time.Time // when it last could not
}

// A place identifies the file that a name leads to.
type place struct{ device, inode uint64 }

func placeOf(name string) (place, error) {
	var stat unix.Stat_t
	if err := unix.Stat(name, &stat); err != nil {
		return place{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return place{stat.Dev, stat.Ino}, nil
}

// NewPath watches a directory or .nix file. Its copies are below the directory copies, which it
// makes if need be; keep is how many stay, zero: 4.
func NewPath(watches *Watches, origin, copies string, keep int) (*Path, error) {
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
	kept, err := newRevisions(filepath.Join(copies, hex.EncodeToString(id[:8])), cmp.Or(keep, defaultKeep))
	if err != nil {
		return nil, err
	}
	p := &Path{origin: origin, single: !info.IsDir(), watches: watches, kept: kept, grown: func() {}}
	p.pinned.Revision, p.files = kept.last()
	p.pinned = p.at(p.pinned.Revision)
	return p, nil
}

// Current knows the revision of Latest if the kernel says that nothing has changed. The tag of a
// revision is the revision.
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

// Pin copies what has changed since the last time. The tag of an older revision stays valid while
// that revision is stored.
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
	pinned, err := p.look(ctx)
	if err != nil {
		p.unwatch()
		return Pinned{}, fmt.Errorf("reading the package set: %w", err)
	}
	p.pinned, p.started = pinned, started
	return pinned, nil
}

// quiet tells whether what was pinned last is still all there is, as far as that can be told
// without a look at the files.
func (p *Path) quiet() bool {
	if p.watch == nil || time.Since(p.walked) > believed || !p.watch.quiet() {
		return false
	}
	// The origin may be a symbolic link, or lie behind some, and the copy was perhaps removed.
	top, err := placeOf(p.origin)
	if err != nil || top != p.top {
		return false
	}
	there, err := p.kept.have(p.pinned.Revision)
	return there && err == nil
}

// rewatch begins to watch what the next walk finds. It does nothing for a set that can't be
// watched, or for a single file, which is looked at as fast.
func (p *Path) rewatch() {
	if p.single || p.unseen != nil && time.Since(p.tried) < watchAgain {
		return
	}
	if p.watch == nil {
		var err error
		if p.watch, err = p.watches.newWatch(); err != nil {
			p.unwatched(err)
			return
		}
	}
	p.watch.begin()
}

// unwatched logs, once, that the set can't be watched.
func (p *Path) unwatched(err error) {
	p.unwatch()
	if p.unseen == nil || p.unseen.Error() != err.Error() {
		logrus.WithError(err).Warnf(
			"nix: every pull looks at all files of the package set, as their directories can't be watched: %s",
			advice(err),
		)
	}
	p.unseen, p.tried = err, time.Now()
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

// Lease makes the tree of a revision again if an edit has taken it since Pin. If the set has changed
// several times meanwhile, it fails.
func (p *Path) Lease(ctx context.Context, pinned Pinned) (release func(), err error) {
	for {
		release, there, err := p.kept.lease(pinned.Revision)
		if there || err != nil {
			return release, err
		}
		if err := p.kept.revive(ctx, pinned.Revision); errors.Is(err, ErrUnknownTag) {
			return nil, fmt.Errorf(
				"the package set has changed several times, and revision %s is gone", pinned.Revision,
			)
		} else if err != nil {
			return nil, err
		}
	}
}

func (p *Path) at(revision string) Pinned {
	name := filepath.Base(p.origin)
	pinned := Pinned{Name: "path:" + name, Revision: revision, Path: p.kept.path(revision), Origin: "path " + p.origin}
	if p.single {
		pinned.Path = filepath.Join(pinned.Path, name)
	}
	return pinned
}

// look finds what there is, and copies it if that revision is not stored.
func (p *Path) look(ctx context.Context) (Pinned, error) {
	origin, err := filepath.EvalSymlinks(p.origin)
	if err != nil {
		return Pinned{}, err
	}
	walked := p.walked
	found, ok := p.relist(origin)
	if !ok {
		walked = time.Now()
		if found, err = p.walk(ctx, origin); err != nil {
			return Pinned{}, err
		}
	}
	if !p.changed(found) {
		if there, err := p.kept.have(p.pinned.Revision); there || err != nil {
			p.walked = walked
			return p.pinned, err
		}
	}
	source := func(rel string) string { return filepath.Join(origin, rel) }
	if p.single {
		source = func(string) string { return origin }
	}
	revision, err := p.kept.put(ctx, found, p.known(found), source)
	if missing := (*missingContent)(nil); errors.As(err, &missing) { // somebody has tidied up
		p.files = nil
		revision, err = p.kept.put(ctx, found, p.known(found), source)
	}
	if err != nil {
		return Pinned{}, err
	}
	p.files, p.walked = found, walked
	p.grown()
	return p.at(revision), nil
}

// relist returns what a walk would, from the last walk and the directories that have changed since.
// It is false if directories have come or gone, or if the last walk is too old to be believed.
func (p *Path) relist(origin string) (found []file, ok bool) {
	if p.watch == nil || time.Since(p.walked) > believed {
		return nil, false
	}
	if top, err := placeOf(origin); err != nil || top != p.top {
		return nil, false
	}
	dirs, ok := p.watch.takeEdited()
	if !ok {
		return nil, false
	}
	edited := make(map[string]bool, len(dirs))
	for _, dir := range dirs {
		edited[dir] = true
		files, err := listDir(origin, dir)
		if err != nil {
			return nil, false
		}
		found = append(found, files...)
	}
	subdirs := make(map[string]bool)
	for _, f := range found {
		if f.isDir() {
			subdirs[f.Rel] = true
		}
	}
	for _, f := range p.files {
		switch {
		case !edited[filepath.Dir(f.Rel)]:
			found = append(found, f)
		case f.isDir() && !subdirs[f.Rel]:
			return nil, false
		case f.isDir():
			delete(subdirs, f.Rel)
		}
	}
	sortFiles(found)
	return found, len(subdirs) == 0
}

// walk lists all files, and watches them if possible.
func (p *Path) walk(ctx context.Context, origin string) ([]file, error) {
	if p.single {
		status, err := statusAt(unix.AT_FDCWD, origin)
		return []file{{Rel: filepath.Base(p.origin), Status: status}}, err
	}
	p.rewatch()
	top, err := placeOf(origin)
	if err != nil {
		return nil, err
	}
	found, err := walk(ctx, origin, p.watch)
	if err != nil {
		return nil, err
	}
	if p.watch != nil {
		if err := p.watch.end(); err != nil {
			p.unwatched(err)
		} else {
			p.unseen = nil
		}
	}
	p.top = top
	return found, nil
}

// changed tells whether a walk found anything else than the one that was copied last.
func (p *Path) changed(found []file) bool {
	return !slices.EqualFunc(found, p.files, func(a, b file) bool { return a.Rel == b.Rel && a.Status == b.Status })
}

// known sets the hashes of files whose status is the same as when they were copied last, and
// returns a function that tells which these are.
func (p *Path) known(found []file) func(i int) bool {
	known := make([]bool, len(found))
	j := 0
	for i := range found {
		for j < len(p.files) && p.files[j].Rel < found[i].Rel {
			j++
		}
		if j < len(p.files) && p.files[j].Rel == found[i].Rel && p.files[j].Status == found[i].Status {
			found[i].hash, known[i] = p.files[j].hash, true
		}
	}
	return func(i int) bool { return known[i] }
}
