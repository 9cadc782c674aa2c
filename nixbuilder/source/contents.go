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

// contents are a store of file contents: each content once, in a file that is named after its hash
// and never written again. Trees are made of hard links to these files. Several processes may share
// the store; it is safe for concurrent use.
type contents struct {
	dir      string
	separate atomic.Bool // the file system can't let copies share blocks
}

// nameOf is the name of a file's content. It includes whether the file is executable, since hard
// links share permissions too.
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

// A spot is a free name where a content is written first. It is in a tree, where the content stays,
// or elsewhere.
type spot struct {
	name  string
	stays bool
}

// copy adds the content of a file or symlink and sets f's hash to that of the copy. It returns how
// many bytes were added.
func (c *contents) copy(from string, at spot, f *file) (added int64, err error) {
	switch mode := f.Status.Mode; {
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return 0, err
		}
		return 0, c.symlink(target, at, f)
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
		return c.write(start[:n], in, at, f)
	case err != nil:
		return 0, err
	}
	return c.stream(io.MultiReader(bytes.NewReader(start[:n]), in), in, at, f)
}

// symlink adds a symlink, and sets f's hash to that of its target.
func (c *contents) symlink(target string, at spot, f *file) error {
	f.hash = sha256.Sum256([]byte(target))
	if err := os.Symlink(target, at.name); err != nil {
		return err
	}
	return c.keep(at, *f)
}

// write adds a content and sets f's hash. From is the open file that the content was read from;
// nil: it comes from no file.
func (c *contents) write(content []byte, from *os.File, at spot, f *file) (added int64, err error) {
	f.hash = sha256.Sum256(content)
	if at.stays {
		err = c.link(*f, at.name)
	} else {
		_, err = os.Lstat(c.path(*f))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, err // it is there
	}
	return c.stream(bytes.NewReader(content), from, at, f)
}

// stream does what write does, with the rest of a reader.
func (c *contents) stream(content io.Reader, from *os.File, at spot, f *file) (added int64, err error) {
	permissions := fs.FileMode(0o444)
	if f.executable() {
		permissions = 0o555
	}
	out, err := os.OpenFile(at.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, permissions)
	if err != nil {
		return 0, err
	}
	hash := sha256.New()
	if from != nil && c.clone(out, from) {
		added, err = io.Copy(hash, out)
	} else {
		added, err = io.Copy(io.MultiWriter(out, hash), content)
	}
	f.hash = [sha256.Size]byte(hash.Sum(nil))
	if info, statErr := out.Stat(); statErr == nil && info.Mode() != permissions { // by the umask
		err = errors.Join(err, out.Chmod(permissions))
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return 0, err
	}
	return added, c.keep(at, *f)
}

// keep links or renames a content to its own name. If there is a file of that name already, the two
// are the same.
func (c *contents) keep(at spot, f file) error {
	name := os.Rename
	if at.stays {
		name = os.Link
	}
	err := name(at.name, c.path(f))
	if errors.Is(err, fs.ErrNotExist) { // no other hash begins so
		err = errors.Join(os.MkdirAll(filepath.Dir(c.path(f)), 0o755), name(at.name, c.path(f)))
	}
	if at.stays && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK)) { // it can't be linked
		err = c.copyTo(at.name, c.path(f), f)
	}
	return ignore(err, fs.ErrExist)
}

// clone makes an empty file share another's blocks until either is written to (ioctl_ficlone(2)).
// It is false if the file system can't do that.
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
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) { // some file systems limit links, or have none
		err = c.copyTo(c.path(f), target, f)
	}
	return err
}

// copyTo copies a file or symlink that can't be linked.
func (c *contents) copyTo(from, target string, f file) error {
	if f.Status.Mode&fs.ModeSymlink != 0 {
		text, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(text, target)
	}
	in, err := os.Open(from)
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

// sweep removes the contents that are not wanted. Nobody may add any meanwhile.
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
