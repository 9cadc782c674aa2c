package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// maxBufferedBytes is the size up to which a file of an archive is buffered in memory.
const maxBufferedBytes = 1 << 20

// PackArchives writes the bytes that Pack would write, for store paths that come as archives
// (NARs). It calls read once for each path, which visits all that is in it, in the order of
// nar.Read. If PackArchives fails, what it wrote to w is worthless.
//
// A file that has the size and mode of an earlier one may equal it. It is read to its end before it
// is written: up to 1 MiB into memory, else into a temporary file without a name.
func PackArchives(
	ctx context.Context, w io.Writer, c *compress.Compressor, paths []store.Path, options Options,
	read func(store.Path, func(nar.Entry) error) error,
) (Result, error) {
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	return write(ctx, w, c, func(t *Tar) (err error) {
		if err := storeDirs(t); err != nil {
			return err
		}
		entries := &narWriter{
			entryWriter: newEntryWriter(t, nil, make([]byte, maxBufferedBytes)),
			seen:        make(map[fileKind]bool),
			tempDir:     options.TempDir,
		}
		defer func() { err = errors.Join(err, entries.close()) }()
		for _, path := range paths {
			if err := read(path, func(e nar.Entry) error { return entries.write(path, e) }); err != nil {
				return fmt.Errorf("packing %s: %w", path, err)
			}
		}
		return nil
	})
}

// narWriter is an entryWriter for files that can be read only once.
type narWriter struct {
	*entryWriter
	seen    map[fileKind]bool
	tempDir string
	temp    *os.File // nil: not needed yet
}

func (w *narWriter) write(parent store.Path, e nar.Entry) error {
	path := string(parent[1:])
	if e.Path != "" {
		path += "/" + e.Path
	}
	switch mode := int64(e.Mode.Perm()); {
	case e.Mode.IsDir():
		return w.tar.Dir(path, dirMode)
	case e.Mode.Type() == fs.ModeSymlink:
		return w.tar.Symlink(path, e.Target)
	default:
		return w.file(path, mode, e.Size, e.Content)
	}
}

func (w *narWriter) file(path string, mode, size int64, data io.Reader) error {
	if size == 0 {
		return w.tar.File(path, mode, size, data)
	}
	if kind := (fileKind{size, mode}); !w.seen[kind] {
		w.seen[kind] = true
		sum := sha256.New()
		if err := w.tar.File(path, mode, size, io.TeeReader(data, sum)); err != nil {
			return err
		}
		w.written[content{mode, [sha256.Size]byte(sum.Sum(nil))}] = &original{path: path, links: 1}
		return nil
	}
	buffered, err := w.buffer(size, data)
	if err != nil {
		return fmt.Errorf("archiving %q: %w", path, err)
	}
	id := content{mode: mode}
	if id.sum, err = w.sum(buffered); err != nil {
		return fmt.Errorf("archiving %q: %w", path, err)
	}
	return w.once(path, id, size, buffered)
}

// buffer reads size bytes and returns them to be read again, until the next call.
func (w *narWriter) buffer(size int64, data io.Reader) (io.ReadSeeker, error) {
	if size <= int64(len(w.buf)) {
		_, err := io.ReadFull(data, w.buf[:size])
		return bytes.NewReader(w.buf[:size]), err
	}
	if w.temp == nil {
		temp, err := os.CreateTemp(w.tempDir, "layer-")
		if err != nil {
			return nil, err
		}
		w.temp = temp
		if err := os.Remove(temp.Name()); err != nil { // it lasts as long as it is open
			return nil, err
		}
	}
	_, err := io.CopyN(io.NewOffsetWriter(w.temp, 0), data, size)
	return io.NewSectionReader(w.temp, 0, size), err
}

func (w *narWriter) close() error {
	if w.temp == nil {
		return nil
	}
	return w.temp.Close()
}
