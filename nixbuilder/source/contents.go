package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// smallFile is how much of a file is read at once. Nearly all files of package sets have less.
const smallFile = 64 << 10

// contents keep what files hold, each content once, in a file that is named after it and never written again. Trees are made of
// hard links to these files. Several processes may share them; it is safe for concurrent use.
type contents struct {
	dir      string
	separate atomic.Bool // the file system can't have a copy share what it copies
}

// nameOf is what the content of a file is called. Links share permissions as well, so these belong to it.
func nameOf(f file) string {
	name := hex.EncodeToString(f.hash[:])
	switch {
	case f.Status.Mode&fs.ModeSymlink != 0:
		name += "-link"
	case f.executable():
		name += "-executable"
	}
	return filepath.Join(name[:2], name[2:])
}

func (c *contents) path(f file) string { return filepath.Join(c.dir, nameOf(f)) }

// add copies a file or symlink by way of the name scratch, which must be free, and notes the hash of what the copy holds. What it adds up to
// is bytes, which are none if the content was there.
func (c *contents) add(from, scratch string, f *file) (added int64, err error) {
	switch mode := f.Status.Mode; {
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return 0, err
		}
		f.hash = sha256.Sum256([]byte(target))
		if err := os.Symlink(target, scratch); err != nil {
			return 0, err
		}
		return 0, c.keep(scratch, *f)
	case !mode.IsRegular():
		return 0, fmt.Errorf("%s is neither a file, a directory nor a symlink", from)
	}
	in, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	start := make([]byte, min(f.Status.Size, smallFile)+1)
	n, err := io.ReadFull(in, start)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // that is all
		f.hash = sha256.Sum256(start[:n])
		if _, err := os.Lstat(c.path(*f)); err == nil {
			return 0, nil
		}
	case err != nil:
		return 0, err
	}
	permissions := fs.FileMode(0o444)
	if f.executable() {
		permissions = 0o555
	}
	out, err := os.OpenFile(scratch, os.O_RDWR|os.O_CREATE|os.O_EXCL, permissions)
	if err != nil {
		return 0, err
	}
	hash := sha256.New()
	if c.clone(out, in) {
		added, err = io.Copy(hash, out)
	} else {
		added, err = io.Copy(io.MultiWriter(out, hash), io.MultiReader(bytes.NewReader(start[:n]), in))
	}
	f.hash = [sha256.Size]byte(hash.Sum(nil))
	if info, statErr := out.Stat(); statErr == nil && info.Mode() != permissions { // by the umask
		err = errors.Join(err, out.Chmod(permissions))
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return 0, err
	}
	return added, c.keep(scratch, *f)
}

// keep gives a content its name. If it is there already, that is replaced by the same.
func (c *contents) keep(scratch string, f file) error {
	err := os.Rename(scratch, c.path(f))
	if errors.Is(err, fs.ErrNotExist) { // the first whose hash begins so
		err = errors.Join(os.MkdirAll(filepath.Dir(c.path(f)), 0o755), os.Rename(scratch, c.path(f)))
	}
	return err
}

// clone has an empty file share the content of another until one of them is written to, where the file system can do that (ioctl_ficlone(2)).
func (c *contents) clone(to, from *os.File) bool {
	if c.separate.Load() {
		return false
	}
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) != nil {
		c.separate.Store(true)
		return false
	}
	return true
}

// link puts a file into a tree.
func (c *contents) link(f file, target string) error {
	err := os.Link(c.path(f), target)
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) { // file systems limit how many links a file has, or have none
		err = c.copyTo(f, target)
	}
	return err
}

func (c *contents) copyTo(f file, target string) error {
	if f.Status.Mode&fs.ModeSymlink != 0 {
		text, err := os.Readlink(c.path(f))
		if err != nil {
			return err
		}
		return os.Symlink(text, target)
	}
	in, err := os.Open(c.path(f))
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// sweep removes what is not wanted. Nobody may add anything meanwhile.
func (c *contents) sweep(wanted map[string]bool) error {
	shards, err := os.ReadDir(c.dir)
	if err != nil {
		return ignore(err, fs.ErrNotExist)
	}
	for _, shard := range shards {
		entries, err := os.ReadDir(filepath.Join(c.dir, shard.Name()))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			name := filepath.Join(shard.Name(), entry.Name())
			if wanted[name] {
				continue
			}
			if err := os.Remove(filepath.Join(c.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
