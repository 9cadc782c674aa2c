package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// A copying makes a tree of what a walk found, sorted by path. Files that are known already are links to the last tree.
type copying struct {
	source func(rel string) string // where a file is
	known  map[string]file         // what the last tree was copied from
	last   string                  // the last tree
	to     string
	found  []file

	made map[string]bool // directories, by path
}

func (c *copying) isKnown(f file) bool {
	known, ok := c.known[f.Rel]
	return ok && known.Status == f.Status
}

// changed copies files that are not known, and notes the hashes of all.
func (c *copying) changed(ctx context.Context) error {
	c.made = map[string]bool{".": true}
	return c.each(ctx, func(f *file) (func() error, error) {
		switch {
		case f.isDir():
			return nil, nil
		case c.isKnown(*f):
			f.SHA256 = c.known[f.Rel].SHA256
			return nil, nil
		}
		if err := c.makeDir(filepath.Dir(f.Rel)); err != nil {
			return nil, err
		}
		return func() (err error) {
			f.SHA256, err = copyFile(c.source(f.Rel), filepath.Join(c.to, f.Rel), f.Status.Mode)
			return err
		}, nil
	})
}

// makeDir makes a directory and those above it, each once. os.MkdirAll would look for each first.
func (c *copying) makeDir(rel string) error {
	if c.made[rel] {
		return nil
	}
	if err := c.makeDir(filepath.Dir(rel)); err != nil {
		return err
	}
	c.made[rel] = true
	return os.Mkdir(filepath.Join(c.to, rel), 0o755)
}

// unchanged adds what changed left out: directories and known files.
func (c *copying) unchanged(ctx context.Context) error {
	return c.each(ctx, func(f *file) (func() error, error) {
		if f.isDir() {
			return nil, c.makeDir(f.Rel) // before what it holds
		}
		if !c.isKnown(*f) {
			return nil, nil
		}
		return func() error {
			target := filepath.Join(c.to, f.Rel)
			if os.Link(filepath.Join(c.last, f.Rel), target) == nil {
				return nil
			}
			// Another process may have removed the last tree.
			sum, err := copyFile(c.source(f.Rel), target, f.Status.Mode)
			if err == nil && sum != f.SHA256 {
				err = fmt.Errorf("%s changed while it was read", f.Rel)
			}
			return err
		}, nil
	})
}

// each calls prepare for every file in order, and does the work that it returns on several threads.
func (c *copying) each(ctx context.Context, prepare func(*file) (work func() error, err error)) error {
	threads, ctx := errgroup.WithContext(ctx)
	threads.SetLimit(runtime.GOMAXPROCS(0))
	for i := range c.found {
		work, err := prepare(&c.found[i])
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return errors.Join(threads.Wait(), err)
		}
		if work != nil {
			threads.Go(work)
		}
	}
	return threads.Wait()
}

// copyFile copies a file or symlink, and returns the hash of what the copy holds.
func copyFile(from, to string, mode fs.FileMode) (sum [sha256.Size]byte, err error) {
	switch {
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
