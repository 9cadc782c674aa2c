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
	// Annotations are what a manifest says of the layer besides, for clients that do not load all
	// of it.
	Annotations map[string]string
}

// Write writes to w the layer whose entries fill writes, compressed. Nothing is held in memory but
// buffers of a fixed size. (A table of files, where the layer has one, is.) What was written to w
// is worthless if Write fails. It stops soon after ctx is done, unless w blocks.
func Write(ctx context.Context, w io.Writer, c *Compressor, fill func(*Tar) error) (Result, error) {
	switch c.compression {
	case None:
		return writePlain(ctx, w, c, fill)
	case EStargz, ZstdChunked:
		return writeSeekable(ctx, w, c, fill)
	}
	return write(ctx, w, c, fill)
}

// write makes the archive, hashes it and compresses it, each on a goroutine of its own.
func write(ctx context.Context, w io.Writer, c *Compressor, fill func(*Tar) error) (Result, error) {
	return assemble(ctx, w, c, func(ctx context.Context, a *assembly) error {
		return archive(ctx, c, false, fill, func(block []byte) error {
			return a.then(ctx, func() error {
				a.diffID.Write(block)
				return a.parts.add(ctx, block)
			})
		})
	})
}

// An assembly is a layer that is hashed and compressed, step by step, while its archive is made.
type assembly struct {
	diffID hash.Hash // which, like parts, is for steps alone
	parts  *parts
	steps  chan func() error
}

// assemble writes the layer whose archive produce makes.
func assemble(
	ctx context.Context, w io.Writer, c *Compressor, produce func(context.Context, *assembly) error,
) (Result, error) {
	blob := &meter{w: w, hash: sha256.New()}
	a := &assembly{diffID: sha256.New(), parts: c.begin(blob), steps: make(chan func() error, 1)}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error {
		defer close(a.steps)
		return produce(ctx, a)
	})
	all.Go(func() error {
		for step := range a.steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	err := all.Wait()
	if writeErr := a.parts.end(); writeErr != nil {
		err = fmt.Errorf("writing layer: %w", writeErr) // which is why the archive could not be finished
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Digest: blob.digest(), Size: blob.size, DiffID: digest.NewDigest(digest.SHA256, a.diffID)}, nil
}

// then has a step taken after those before it.
func (a *assembly) then(ctx context.Context, step func() error) error {
	select {
	case a.steps <- step:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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

// archive gives the archive that fill fills to add, block by block, all of them full but the last
// one, or cut where it may recur.
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
