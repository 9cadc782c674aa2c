package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// A Tar takes the entries of a layer. All of them get the same owner and time. Names are relative
// to the root directory, without "./". Modes are permission bits, with 01000 for sticky. The
// directory that an entry is in, and the file that a hard link leads to, must have been written
// before it. An entry that no layer can have is an *UnfitError. A Tar is not safe for concurrent
// use.
type Tar struct {
	w    *tar.Writer
	out  *compress.Stream // what w writes to
	cuts bool             // into chunks, by the names of entries
	buf  []byte           // nil until first used
}

// entriesPerChunk is how many entries a chunk has on average, if it is not cut for its size. It is
// part of the format of layers.
const entriesPerChunk = 128

func newTar(out *compress.Stream) *Tar {
	return &Tar{w: tar.NewWriter(out), out: out}
}

// buffer is memory to copy files with.
func (t *Tar) buffer() []byte {
	if t.buf == nil {
		t.buf = t.out.Buffer()
	}
	return t.buf
}

// Dir writes a directory.
func (t *Tar) Dir(name string, mode int64) error {
	return t.header(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

// File writes a regular file of size bytes. It fails if content holds fewer or more.
func (t *Tar) File(name string, mode, size int64, content io.Reader) error {
	if err := t.header(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size}); err != nil {
		return err
	}
	// The bare reader and writer keep io.CopyBuffer from taking a smaller buffer of its own.
	switch n, err := io.CopyBuffer(struct{ io.Writer }{t.w}, struct{ io.Reader }{content}, t.buffer()); {
	case errors.Is(err, tar.ErrWriteTooLong), err == nil && n < size:
		return fmt.Errorf("archiving %q: the size changed while it was read", name)
	case err != nil:
		return fmt.Errorf("archiving %q: %w", name, err)
	}
	return nil
}

// Symlink writes a symbolic link. The target is not looked at.
func (t *Tar) Symlink(name, target string) error {
	return t.header(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

// HardLink writes a second name for an earlier regular file of the same mode.
func (t *Tar) HardLink(name, target string, mode int64) error {
	return t.header(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: mode})
}

func (t *Tar) header(h tar.Header) error {
	dir, base := path.Split(strings.TrimSuffix(h.Name, "/"))
	if reason := Unfit(len(dir)-1, base); reason != "" {
		return &UnfitError{h.Name, reason}
	}
	h.ModTime = time.Unix(1, 0)
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) {
		// PAX records are UTF-8 by definition; GNU headers hold bytes, and every client reads them.
		h.Format = tar.FormatGNU
	}
	if t.cuts {
		if err := t.cut(h.Name); err != nil {
			return fmt.Errorf("archiving %q: %w", h.Name, err)
		}
	}
	if err := t.w.WriteHeader(&h); err != nil {
		return fmt.Errorf("archiving %q: %w", h.Name, err)
	}
	return nil
}

// cut ends a chunk before the entry of that name, if it is one of those that chunks begin with.
func (t *Tar) cut(name string) error {
	if crc32.ChecksumIEEE([]byte(name))%entriesPerChunk != 0 {
		return nil
	}
	if err := t.pad(); err != nil {
		return err
	}
	return t.out.Cut()
}

// pad completes the file that was written last.
func (t *Tar) pad() error { return t.w.Flush() }

// close ends the archive.
func (t *Tar) close() error {
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	return nil
}
