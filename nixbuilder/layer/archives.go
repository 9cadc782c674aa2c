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

// heldBytes is how large a file of an archive may be to be held in memory.
const heldBytes = 1 << 20

// PackArchives is Pack for store paths that come as archives, and writes the same bytes. Read
// visits all that is in a path, once, in the order of nar.Read. What was written to w is worthless
// if it fails.
//
// A file that may equal an earlier one has to be known whole before it is written: up to 1 MiB in
// memory, else in a temporary file without a name.
func PackArchives(
	ctx context.Context, w io.Writer, c *compress.Compressor, paths []store.Path, options Options,
	read func(store.Path, func(nar.Entry) error) error,
) (Result, error) {
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	return write(ctx, w, c, func(t *Tar) (err error) {
		if err := storeDirs(t); err != nil {
			return err
		}
		p := &archivePacker{
			packer:  newPacker(t, nil, make([]byte, heldBytes)),
			seen:    make(map[fileKind]bool),
			tempDir: options.TempDir,
		}
		defer func() { err = errors.Join(err, p.close()) }()
		for _, path := range paths {
			if err := read(path, func(e nar.Entry) error { return p.pack(path, e) }); err != nil {
				return fmt.Errorf("packing %s: %w", path, err)
			}
		}
		return nil
	})
}

// archivePacker is a packer of files that are read once.
type archivePacker struct {
	*packer
	seen    map[fileKind]bool
	tempDir string
	temp    *os.File // nil: not needed yet
}

func (p *archivePacker) pack(parent store.Path, e nar.Entry) error {
	path := string(parent[1:])
	if e.Path != "" {
		path += "/" + e.Path
	}
	switch mode := int64(e.Mode.Perm()); {
	case e.Mode.IsDir():
		return p.tar.Dir(path, mode)
	case e.Mode.Type() == fs.ModeSymlink:
		return p.tar.Symlink(path, e.Target)
	default:
		return p.file(path, mode, e.Size, e.Content)
	}
}

func (p *archivePacker) file(path string, mode, size int64, data io.Reader) error {
	if size == 0 {
		return p.tar.File(path, mode, size, data)
	}
	if kind := (fileKind{size, mode}); !p.seen[kind] {
		p.seen[kind] = true
		sum := sha256.New()
		if err := p.tar.File(path, mode, size, io.TeeReader(data, sum)); err != nil {
			return err
		}
		p.written[content{mode, [sha256.Size]byte(sum.Sum(nil))}] = &original{path: path, links: 1}
		return nil
	}
	held, err := p.hold(size, data)
	if err != nil {
		return fmt.Errorf("archiving %q: %w", path, err)
	}
	id := content{mode: mode}
	if id.sum, err = p.sum(held); err != nil {
		return fmt.Errorf("archiving %q: %w", path, err)
	}
	return p.once(path, id, size, held)
}

// hold reads size bytes to where they can be read again, until the next call.
func (p *archivePacker) hold(size int64, data io.Reader) (io.ReadSeeker, error) {
	if size <= int64(len(p.buf)) {
		_, err := io.ReadFull(data, p.buf[:size])
		return bytes.NewReader(p.buf[:size]), err
	}
	if p.temp == nil {
		temp, err := os.CreateTemp(p.tempDir, "layer-")
		if err != nil {
			return nil, err
		}
		p.temp = temp
		if err := os.Remove(temp.Name()); err != nil { // it lasts as long as it is open
			return nil, err
		}
	}
	_, err := io.CopyN(io.NewOffsetWriter(p.temp, 0), data, size)
	return io.NewSectionReader(p.temp, 0, size), err
}

func (p *archivePacker) close() error {
	if p.temp == nil {
		return nil
	}
	return p.temp.Close()
}
