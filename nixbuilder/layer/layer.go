package layer

import (
	"context"
	"io"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// Result is what a manifest and a config say about a layer.
type Result = compress.Result

// write writes to w the layer whose entries fill writes. See Compressor.Write.
func write(ctx context.Context, w io.Writer, c *compress.Compressor, fill func(*Tar) error) (Result, error) {
	return c.Write(ctx, w, func(s *compress.Stream) error {
		t := newTar(s)
		if err := fill(t); err != nil {
			return err
		}
		return t.close()
	})
}

// A Section is a run of a layer's entries. If two layers begin with sections of the same keys,
// those sections must have the same entries.
type Section struct {
	Key  string
	Fill func(*Tar) error
}

// WriteSections writes to w the layer that has all entries of the sections and of rest. It is fast
// where earlier layers had the same entries: see Compressor.WriteSections. The names of entries
// decide where a layer is cut into chunks. So an entry that is added changes the chunk that it is
// in, and no other.
func WriteSections(
	ctx context.Context, w io.Writer, c *compress.Compressor, sections []Section, rest func(*Tar) error,
) (Result, error) {
	filling := func(fill, end func(*Tar) error) func(*compress.Stream) error {
		return func(s *compress.Stream) error {
			t := newTar(s)
			t.cuts = true
			if err := fill(t); err != nil {
				return err
			}
			return end(t)
		}
	}
	parts := make([]compress.Section, len(sections))
	for i, section := range sections {
		parts[i] = compress.Section{Key: section.Key, Fill: filling(section.Fill, (*Tar).pad)}
	}
	return c.WriteSections(ctx, w, parts, filling(rest, (*Tar).close))
}
