package layer

import (
	"archive/tar"
	"bufio"
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
func Write(ctx context.Context, w io.Writer, compression Compression, fill func(*Tar) error) (Result, error) {
	blob := &meter{w: w, hash: sha256.New()}
	// Compressors write a few hundred bytes at a time.
	out := bufio.NewWriterSize(blob, 256<<10)
	compressor, err := compression.compressor(out)
	if err != nil {
		return Result{}, err
	}
	diffID := sha256.New()
	both := io.MultiWriter(diffID, compressor)
	// Every byte of a layer passes here, so it is where a packing is cancelled.
	in := bufio.NewWriterSize(writerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return both.Write(p)
	}), 256<<10)
	archive := tar.NewWriter(in)

	if err := fill(&Tar{w: archive, buf: make([]byte, copyBytes)}); err != nil {
		return Result{}, err
	}
	for _, finish := range []func() error{archive.Close, in.Flush, compressor.Close, out.Flush} {
		if err := finish(); err != nil {
			return Result{}, fmt.Errorf("writing layer: %w", err)
		}
	}
	return Result{
		Digest: digest.NewDigest(digest.SHA256, blob.hash),
		Size:   blob.size,
		DiffID: digest.NewDigest(digest.SHA256, diffID),
	}, nil
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

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
