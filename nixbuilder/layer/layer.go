package layer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Result is what a manifest and a config say about a layer.
type Result struct {
	// Digest and Size, in bytes, are of the layer as it was written.
	Digest digest.Digest
	Size   int64
	// DiffID is the digest of the uncompressed archive.
	DiffID digest.Digest
	// Annotations are what a manifest says of the layer besides, for clients that do not load all of it.
	Annotations map[string]string
}

// Write writes to w the layer whose entries fill writes, compressed. Nothing is held in memory but buffers of a fixed size.
// (A table of files, where the layer has one, is.) What was written to w is worthless if Write fails. It stops soon after ctx is done, unless w blocks.
func Write(ctx context.Context, w io.Writer, c *Compressor, fill func(*Tar) error) (Result, error) {
	switch c.compression {
	case None:
		return writePlain(ctx, w, c, fill)
	case EStargz, ZstdChunked:
		return writeSeekable(ctx, w, c, fill)
	}
	return write(ctx, w, c, false, fill)
}

// WriteRecurring is Write for an archive much of which was, most likely, in others before: what was compressed for them is used again. Its parts
// are small and begin anew, for which it takes some more bytes than Write.
func WriteRecurring(ctx context.Context, w io.Writer, c *Compressor, fill func(*Tar) error) (Result, error) {
	if c.compression == Gzip || c.compression == Zstd {
		return write(ctx, w, c, true, fill)
	}
	return Write(ctx, w, c, fill)
}

// write makes the archive, hashes it and compresses it, each on a goroutine of its own.
func write(ctx context.Context, w io.Writer, c *Compressor, recurring bool, fill func(*Tar) error) (Result, error) {
	blob, diffID := &meter{w: w, hash: sha256.New()}, sha256.New()
	compressed := c.begin(blob)
	add := compressed.add
	if recurring {
		add = compressed.addPart
	}
	blocks := make(chan []byte, 1)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error {
		defer close(blocks)
		return archive(ctx, c, recurring, fill, func(block []byte) error {
			select {
			case blocks <- block:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	all.Go(func() error {
		for block := range blocks {
			diffID.Write(block)
			if err := add(ctx, block); err != nil {
				return err
			}
		}
		return nil
	})
	err := all.Wait()
	if writeErr := compressed.end(); writeErr != nil {
		err = fmt.Errorf("writing layer: %w", writeErr) // which is why the archive could not be finished
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Digest: blob.digest(), Size: blob.size, DiffID: digest.NewDigest(digest.SHA256, diffID)}, nil
}

// writePlain writes a layer that is its archive.
func writePlain(ctx context.Context, w io.Writer, c *Compressor, fill func(*Tar) error) (Result, error) {
	blob := &meter{w: w, hash: sha256.New()}
	err := archive(ctx, c, false, fill, func(block []byte) error {
		_, err := blob.Write(block)
		c.recycle(block)
		return err
	})
	return Result{Digest: blob.digest(), Size: blob.size, DiffID: blob.digest()}, err
}

// archive gives the archive that fill fills to add, block by block, all of them full but the last one, or cut where it may recur.
func archive(ctx context.Context, c *Compressor, recurring bool, fill func(*Tar) error, add func([]byte) error) error {
	out := &blockWriter{compressor: c, add: func(block []byte) error {
		// Every byte of a layer passes here, so it is where a packing is cancelled.
		if err := ctx.Err(); err != nil {
			return err
		}
		return add(block)
	}}
	buf := c.block()
	defer c.recycle(buf)
	archive := newTar(out, buf[:cap(buf)])
	archive.cuts = recurring
	if err := fill(archive); err != nil {
		return err
	}
	if err := errors.Join(archive.w.Close(), out.flush()); err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	return nil
}

// meter hashes and counts what passes to w, and keeps the first error.
type meter struct {
	w    io.Writer
	hash hash.Hash
	size int64
	err  error
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.hash.Write(p[:n])
	m.size += int64(n)
	m.err = cmp.Or(m.err, err)
	return n, err
}

func (m *meter) digest() digest.Digest { return digest.NewDigest(digest.SHA256, m.hash) }
