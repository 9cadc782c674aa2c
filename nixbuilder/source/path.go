package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"
)

const (
	// keptRevisions is how many copies of a path stay, the newest first. An evaluation may still read from the last ones.
	keptRevisions = 4
	// raceWindow is how old a change must be before a file's times are believed to tell it from the next change: kernels
	// stamp files with a clock that ticks every few milliseconds.
	raceWindow = time.Second
)

// Path is a package set in a directory with a default.nix or flake.nix, or in one .nix file, on this machine. Its revision is the
// SHA-256 of its names, kinds, executable bits and contents. A .git directory at its top is no part of it. Every Pin walks the
// tree; only files whose status changed are read again, and hard links share the others between copies.
type Path struct {
	origin string // what is watched
	copies *trees

	walking sync.Mutex // one walk at a time; guards what follows
	files   map[string]file
	pinned  Pinned
	started time.Time // when the walk that gave pinned began
}

// A file is what a walk found, and the hash of its content by then.
type file struct {
	status status
	sha256 [sha256.Size]byte
}

// A status is all that changes when a file does.
type status struct {
	mode         fs.FileMode
	size         int64
	inode        uint64
	mtime, ctime syscall.Timespec
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
	return &Path{origin: origin, copies: kept}, nil
}

// Moves is true for latest alone.
func (p *Path) Moves(tag string) bool { return tag == Latest }

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
	started := time.Now()
	pinned, err := p.copy(ctx)
	if err != nil {
		return Pinned{}, fmt.Errorf("reading the package set: %w", err)
	}
	p.pinned, p.started = pinned, started
	return pinned, nil
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
	if filepath.Ext(name) == ".nix" {
		pinned.Path = filepath.Join(pinned.Path, name)
	}
	return pinned
}

// copy walks the origin, and makes a copy of it if there is none of that revision.
func (p *Path) copy(ctx context.Context) (Pinned, error) {
	paths, files, changed, err := p.walk(ctx)
	if err != nil {
		return Pinned{}, err
	}
	if !changed {
		if _, err := os.Stat(p.pinned.Path); err == nil {
			return p.pinned, nil
		}
	}
	staging, err := p.copies.stage()
	if err != nil {
		return Pinned{}, err
	}
	defer removeAll(staging)
	now := time.Now()
	set := sha256.New()
	for _, rel := range paths {
		if err := ctx.Err(); err != nil {
			return Pinned{}, err
		}
		f := files[rel]
		target := filepath.Join(staging, treeName, rel)
		if known, ok := p.files[rel]; ok && f.status.mode.IsRegular() && known.status == f.status &&
			os.Link(filepath.Join(p.copies.path(p.pinned.Revision), rel), target) == nil {
			f.sha256 = known.sha256
		} else if f.sha256, err = copyFile(filepath.Join(p.top(), rel), target, f.status.mode); err != nil {
			return Pinned{}, err
		}
		fmt.Fprintf(set, "%q %v %t %x\n", rel, f.status.mode.Type(), f.executable(), f.sha256)
		if age := now.Sub(time.Unix(f.status.ctime.Unix())); age < raceWindow {
			f.status = status{} // matches nothing: looked at again next time
		}
		files[rel] = f
	}
	pinned := p.at(hex.EncodeToString(set.Sum(nil)))
	if err := p.copies.publish(staging, pinned.Revision); err != nil {
		return Pinned{}, err
	}
	p.files = files
	return pinned, nil
}

// top is the directory that the walk's relative paths start from.
func (p *Path) top() string {
	if filepath.Ext(p.origin) == ".nix" {
		return filepath.Dir(p.origin)
	}
	return p.origin
}

// walk lists the origin, directories before what they hold, and tells whether anything differs from the last copy.
func (p *Path) walk(ctx context.Context) (paths []string, files map[string]file, changed bool, err error) {
	files = make(map[string]file, len(p.files))
	err = filepath.WalkDir(p.origin, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(p.top(), path)
		if err != nil || rel == "." {
			return err
		}
		if rel == ".git" {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		now := statusOf(info)
		paths = append(paths, rel)
		files[rel] = file{status: now}
		if p.files[rel].status != now {
			changed = true
		}
		return nil
	})
	return paths, files, changed || len(files) != len(p.files) || len(files) == 0, err
}

func statusOf(info fs.FileInfo) status {
	s := status{mode: info.Mode()}
	if info.IsDir() {
		return s // what a directory holds is walked itself
	}
	sys := info.Sys().(*syscall.Stat_t)
	s.size, s.inode, s.mtime, s.ctime = sys.Size, sys.Ino, sys.Mtim, sys.Ctim
	return s
}

func (f file) executable() bool { return f.status.mode.IsRegular() && f.status.mode&0o111 != 0 }

// copyFile copies one entry of a tree, and returns the hash of what the copy holds.
func copyFile(from, to string, mode fs.FileMode) (sum [sha256.Size]byte, err error) {
	switch {
	case mode.IsDir():
		return sum, os.Mkdir(to, 0o755)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return sum, err
		}
		return sha256.Sum256([]byte(target)), os.Symlink(target, to)
	case !mode.IsRegular():
		return sum, fmt.Errorf("%s is neither a file, a directory nor a symlink", from)
	}
	in, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	permissions := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		permissions = 0o755
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, permissions)
	if err != nil {
		return sum, err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, hash), in)
	if err := errors.Join(err, out.Chmod(permissions), out.Close()); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}
