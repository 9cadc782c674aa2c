package compress

import (
	"context"
	"encoding"
	"io"
)

// A Section is a run of an archive's entries. If two archives begin with sections of the same keys,
// those sections must have the same bytes.
type Section struct {
	Key  string
	Fill func(*Stream) error
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
