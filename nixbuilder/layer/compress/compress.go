package compress

import (
	"context"
	"crypto/sha256"
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
	// Annotations are what a manifest says of the layer besides. Clients that do not load all of
	// it read them.
	Annotations map[string]string
}

// Write writes to w, compressed, the archive that fill writes. It needs memory for buffers of a
// fixed size alone, and for the table of files of a layer that has one. If Write fails, what it
// wrote to w is worthless. It stops soon after ctx is done, unless w blocks.
func (c *Compressor) Write(ctx context.Context, w io.Writer, fill func(*Stream) error) (Result, error) {
	switch c.compression {
	case None:
		return c.writePlain(ctx, w, fill)
	case EStargz, ZstdChunked:
		return c.writeSeekable(ctx, w, fill)
	}
	return c.writeParts(ctx, w, fill)
}

// writePlain writes a layer that is its archive.
func (c *Compressor) writePlain(ctx context.Context, w io.Writer, fill func(*Stream) error) (Result, error) {
	blob := &meter{w: w, hash: sha256.New()}
	err := c.stream(ctx, fill, func(block []byte) error {
		_, err := blob.Write(block)
		c.recycle(block)
		return err
	})
	return Result{Digest: blob.digest(), Size: blob.size, DiffID: blob.digest()}, err
}

// writeParts fills, hashes and compresses an archive, each on a goroutine of its own.
func (c *Compressor) writeParts(ctx context.Context, w io.Writer, fill func(*Stream) error) (Result, error) {
	return c.pipe(ctx, w, func(ctx context.Context, p *pipeline) error {
		return c.stream(ctx, fill, func(block []byte) error {
			return p.then(ctx, func() error {
				p.diffID.Write(block)
				return p.parts.add(ctx, block)
			})
		})
	})
}
