package layer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// Result is what a manifest and a config say about a layer.
type Result struct {
	// Digest and Size, in bytes, are of the layer as it was written.
	Digest digest.Digest
	Size   int64
	// DiffID is the digest of the uncompressed archive.
	DiffID digest.Digest
}

// Write writes to w the layer whose entries fill writes, compressed. Nothing is held in memory but buffers of a fixed size.
// What was written to w is worthless if Write fails. It stops soon after ctx is done, unless w blocks.
func Write(ctx context.Context, w io.Writer, c *Compressor, fill func(*Tar) error) (Result, error) {
	if c.compression == None {
		return writePlain(ctx, w, c, fill)
	}
	blob := &meter{w: w, hash: sha256.New()}
	compressed := c.begin(blob)
	diffID, err := archive(ctx, c, fill, compressed.add)
	if writeErr := compressed.end(); writeErr != nil {
		err = fmt.Errorf("writing layer: %w", writeErr) // which is why the archive could not be finished
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Digest: digest.NewDigest(digest.SHA256, blob.hash), Size: blob.size, DiffID: diffID}, nil
}

// writePlain writes a layer that is its archive.
func writePlain(ctx context.Context, w io.Writer, c *Compressor, fill func(*Tar) error) (Result, error) {
	var size int64
	diffID, err := archive(ctx, c, fill, func(_ context.Context, block []byte) error {
		n, err := w.Write(block)
		size += int64(n)
		c.recycle(block)
		return err
	})
	return Result{Digest: diffID, Size: size, DiffID: diffID}, err
}

// archive gives the archive to add, block by block, and returns its digest.
func archive(ctx context.Context, c *Compressor, fill func(*Tar) error, add func(context.Context, []byte) error) (digest.Digest, error) {
	hash := sha256.New()
	out := &blockWriter{compressor: c, add: func(block []byte) error {
		// Every byte of a layer passes here, so it is where a packing is cancelled.
		if err := ctx.Err(); err != nil {
			return err
		}
		hash.Write(block)
		return add(ctx, block)
	}}
	archive := tar.NewWriter(out)
	buf := c.block()
	defer c.recycle(buf)
	if err := fill(&Tar{w: archive, buf: buf[:cap(buf)]}); err != nil {
		return "", err
	}
	if err := archive.Close(); err != nil {
		return "", fmt.Errorf("writing layer: %w", err)
	}
	if err := out.flush(); err != nil {
		return "", fmt.Errorf("writing layer: %w", err)
	}
	return digest.NewDigest(digest.SHA256, hash), nil
}

// meter hashes and counts what passes to w.
type meter struct {
	w    io.Writer
	hash hash.Hash
	size int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.hash.Write(p[:n])
	m.size += int64(n)
	return n, err
}
