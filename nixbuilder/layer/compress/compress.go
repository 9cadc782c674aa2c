package compress

import (
	"context"
	"crypto/sha256"
	"encoding"
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

// WriteSections is Write for an archive that consists of sections and a rest. It uses again what it
// compressed for earlier archives. A chunk that one of them had is not compressed again. A section
// is not even filled if an earlier archive began with it and with all sections before it.
//
// For example: after an archive of the sections a, b and c, one of a, b, x and c is written. x is
// filled and compressed. c is filled, because x comes before it now, but its chunks are not
// compressed again. a and b are taken as they were.
//
// Chunks are small, and each is compressed by itself. So the layer is somewhat larger than Write
// would make it. Only gzip and zstd have chunks. With other compressions, everything is filled and
// compressed.
func (c *Compressor) WriteSections(
	ctx context.Context, w io.Writer, sections []Section, rest func(*Stream) error,
) (Result, error) {
	if c.compression != Gzip && c.compression != Zstd {
		return c.Write(ctx, w, func(s *Stream) error {
			for _, section := range sections {
				if err := section.Fill(s); err != nil {
					return err
				}
			}
			return rest(s)
		})
	}
	return c.pipe(ctx, w, func(ctx context.Context, p *pipeline) error {
		keys := sectionKeys(sections)
		known := c.chunks.prefix(keys)
		if err := p.then(ctx, func() error { return p.resume(known) }); err != nil {
			return err
		}
		fill := func(s *Stream) error {
			s.chunks = true
			for i := known.sections; i < len(sections); i++ {
				if err := sections[i].Fill(s); err != nil {
					return err
				}
				if err := s.flush(); err != nil {
					return err
				}
				if err := p.then(ctx, func() error { return p.remember(keys[i]) }); err != nil {
					return err
				}
			}
			return rest(s)
		}
		return c.stream(ctx, fill, func(block []byte) error {
			return p.then(ctx, func() error {
				p.diffID.Write(block)
				return p.parts.addChunk(ctx, block)
			})
		})
	})
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

// A pipeline hashes and compresses an archive, step by step, while produce makes it.
type pipeline struct {
	diffID hash.Hash // for steps alone, as parts are
	parts  *parts
	steps  chan func() error
}

// pipe writes the layer whose archive produce makes.
func (c *Compressor) pipe(
	ctx context.Context, w io.Writer, produce func(context.Context, *pipeline) error,
) (Result, error) {
	blob := &meter{w: w, hash: sha256.New()}
	p := &pipeline{diffID: sha256.New(), parts: c.begin(blob), steps: make(chan func() error, 1)}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error {
		defer close(p.steps)
		return produce(ctx, p)
	})
	all.Go(func() error {
		for step := range p.steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	err := all.Wait()
	if writeErr := p.parts.end(); writeErr != nil {
		err = fmt.Errorf("writing layer: %w", writeErr) // the reason why the archive was not finished
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Digest: blob.digest(), Size: blob.size, DiffID: digest.NewDigest(digest.SHA256, p.diffID)}, nil
}

// then queues a step. Steps are taken one after the other.
func (p *pipeline) then(ctx context.Context, step func() error) error {
	select {
	case p.steps <- step:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// resume adds the sections that are known, as if they had been filled.
func (p *pipeline) resume(known prefix) error {
	if known.sections == 0 {
		return nil
	}
	for _, compressed := range known.compressed {
		if err := p.parts.addCompressed(compressed); err != nil {
			return err
		}
	}
	return p.diffID.(encoding.BinaryUnmarshaler).UnmarshalBinary(known.hashed)
}

// remember keeps the chunks of the section that was just added.
func (p *pipeline) remember(key sectionKey) error {
	added := p.parts.added
	p.parts.added = nil
	hashed, err := p.diffID.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	p.parts.compressor.chunks.addSection(key, knownSection{added, hashed})
	return nil
}
