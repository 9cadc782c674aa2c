package layer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// maxLinks bounds the names that a file gets within a layer. Clients' file systems may allow no
// more than 65,000 (ext4).
const maxLinks = 60000

// Options say how store paths are packed.
type Options struct {
	// StoreRoot is the directory that holds nix/store. Empty means "/".
	StoreRoot string
	// TempDir is where PackArchives puts large files for a moment. Empty means that of os.TempDir.
	TempDir string
}

// Pack writes to w the layer that holds paths, and reports what it wrote. The order of paths does
// not matter, nor does repetition. Files of equal content and mode are written once; their other
// names become hard links, which saves some packages most of their size. A special file (device,
// socket, pipe) is an *UnfitError. A file whose size changes meanwhile is an error, too. No
// symbolic link is followed.
//
// It reads each path's directories twice and works on one core; several may run at once.
func Pack(
	ctx context.Context, w io.Writer, c *compress.Compressor, paths []store.Path, options Options,
) (Result, error) {
	dir, err := os.OpenRoot(filepath.Join(cmp.Or(options.StoreRoot, "/"), store.Dir))
	if err != nil {
		return Result{}, fmt.Errorf("opening the store: %w", err)
	}
	defer dir.Close()
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	sizes := map[fileKind]int{}
	count := func(e entry) error {
		if e.info.Mode().IsRegular() {
			sizes[e.kind()]++
		}
		return ctx.Err()
	}
	if err := walkAll(dir, paths, count); err != nil {
		return Result{}, err
	}
	return write(ctx, w, c, func(t *Tar) error {
		if err := storeDirs(t); err != nil {
			return err
		}
		return walkAll(dir, paths, newEntryWriter(t, sizes, t.out.Buffer()).write)
	})
}

// dirMode is the mode of directories. The store's own is 0555. Who unpacks a layer without being
// root could then write nothing into a directory, nor remove it afterwards. Nix's hashes do not
// cover the modes of directories.
const dirMode = 0o755

func storeDirs(t *Tar) error {
	for _, parent := range []string{"nix", "nix/store"} {
		if err := t.Dir(parent, dirMode); err != nil {
			return err
		}
	}
	return nil
}

// entry is a file, directory or symbolic link below the store.
type entry struct {
	dir  *os.Root // the directory that holds it
	name string   // its name in dir
	path string   // its path below the root directory, without a leading slash
	info fs.FileInfo
}

// mode is the one that Nix gives to the files of its store.
func (e entry) mode() int64 {
	if e.info.Mode()&0o111 != 0 {
		return 0o555
	}
	return 0o444
}

// fileKind is what files must share before it is worth comparing their content.
type fileKind struct{ size, mode int64 }

func (e entry) kind() fileKind { return fileKind{e.info.Size(), e.mode()} }

// walkAll visits everything in paths, directories before their content, names in the order of their
// bytes (as in Nix's own archives).
func walkAll(dir *os.Root, paths []store.Path, visit func(entry) error) error {
	for _, p := range paths {
		info, err := dir.Lstat(p.Base())
		if err == nil {
			err = walk(entry{dir, p.Base(), string(p[1:]), info}, visit)
		}
		if err != nil {
			return fmt.Errorf("packing %s: %w", p, err)
		}
	}
	return nil
}

func walk(e entry, visit func(entry) error) error {
	if err := visit(e); err != nil || !e.info.IsDir() {
		return err
	}
	dir, err := e.dir.OpenRoot(e.name)
	if err != nil {
		return err
	}
	defer dir.Close()
	children, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, child := range children {
		info, err := child.Info()
		if err != nil {
			return err
		}
		if err := walk(entry{dir, child.Name(), e.path + "/" + child.Name(), info}, visit); err != nil {
			return err
		}
	}
	return nil
}

// content identifies files that one copy can stand for.
type content struct {
	mode int64
	sum  [sha256.Size]byte
}

// original is a file of the layer that later ones may link to.
type original struct {
	path  string
	links int
}

// entryWriter writes entries to a layer's archive, and files of equal content only once.
type entryWriter struct {
	tar     *Tar
	sizes   map[fileKind]int
	written map[content]*original
	known   map[inode]content // of files that have other names, too
	buf     []byte            // files that are smaller are read at once
}

// inode is what names of the same file share.
type inode struct{ device, number uint64 }

// inode returns false for a file that has only one name.
func (e entry) inode() (inode, bool) {
	stat, ok := e.info.Sys().(*syscall.Stat_t)
	if !ok || stat.Nlink < 2 {
		return inode{}, false
	}
	return inode{stat.Dev, stat.Ino}, true
}

func newEntryWriter(t *Tar, sizes map[fileKind]int, buf []byte) *entryWriter {
	return &entryWriter{tar: t, sizes: sizes, written: map[content]*original{}, known: map[inode]content{}, buf: buf}
}

func (w *entryWriter) write(e entry) error {
	switch e.info.Mode().Type() {
	case 0:
		return w.file(e)
	case fs.ModeDir:
		return w.tar.Dir(e.path, dirMode)
	case fs.ModeSymlink:
		target, err := e.dir.Readlink(e.name)
		if err != nil {
			return err
		}
		return w.tar.Symlink(e.path, target)
	}
	return &UnfitError{e.path, "it is neither a file, a directory nor a symbolic link"}
}

func (w *entryWriter) file(e entry) error {
	node, linked := e.inode()
	if id, ok := w.known[node]; ok && linked { // it need not be read again
		if done, err := w.link(e.path, id); done || err != nil {
			return err
		}
	}
	f, err := e.dir.Open(e.name)
	if err != nil {
		return err
	}
	defer f.Close()
	data := io.ReadSeeker(f)
	if e.info.Size() < int64(len(w.buf)) {
		// Room for one byte more, so that a file that grew is noticed.
		n, err := io.ReadFull(f, w.buf[:e.info.Size()+1])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		data = bytes.NewReader(w.buf[:n])
	}
	if e.info.Size() == 0 || w.sizes[e.kind()] < 2 {
		return w.tar.File(e.path, e.mode(), e.info.Size(), data)
	}
	id := content{mode: e.mode()}
	if id.sum, err = w.sum(data); err != nil {
		return err
	}
	if linked {
		w.known[node] = id
	}
	return w.once(e.path, id, e.info.Size(), data)
}

// once writes a file, or a link to an earlier one of the same content.
func (w *entryWriter) once(path string, id content, size int64, data io.Reader) error {
	if done, err := w.link(path, id); done || err != nil {
		return err
	}
	w.written[id] = &original{path: path, links: 1}
	return w.tar.File(path, id.mode, size, data)
}

// link writes a link to an earlier file of the same content, if there is one that may have more
// names. It reports whether it did.
func (w *entryWriter) link(path string, id content) (bool, error) {
	first := w.written[id]
	if first == nil || first.links == maxLinks {
		return false, nil
	}
	first.links++
	return true, w.tar.HardLink(path, first.path, id.mode)
}

// sum hashes what is left of r, and goes back to its start.
func (w *entryWriter) sum(r io.ReadSeeker) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	if _, err = io.CopyBuffer(h, struct{ io.Reader }{r}, w.tar.buffer()); err != nil {
		return sum, err
	}
	_, err = r.Seek(0, io.SeekStart)
	return [sha256.Size]byte(h.Sum(nil)), err
}
