package compress

import (
	"cmp"
	"context"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// minChunkBytes is the least that a chunk has, unless a section ends with it. It has at most a
// block. The number is part of the format of layers.
const minChunkBytes = 16 << 10

// A Stream takes an archive. It is for one goroutine, and for the time of the call that was given
// it.
type Stream struct {
	blockWriter
	chunks bool // Cut has an effect
	lent   [][]byte
}

// Cut ends a chunk, unless it would have less than 16 KiB. What is written next begins another.
// Only streams of WriteSections have chunks; for others, Cut does nothing.
func (s *Stream) Cut() error {
	if !s.chunks || len(s.block) < minChunkBytes {
		return nil
	}
	return s.flush()
}

// Buffer lends 256 KiB of memory, of any content, to the function that fills the archive. It
// belongs to that function until it returns.
func (s *Stream) Buffer() []byte {
	buf := s.compressor.block()
	s.lent = append(s.lent, buf)
	return buf[:cap(buf)]
}

// stream gives the archive that fill writes to add, block by block, all of them full but the last
// one, or chunk by chunk. add takes them over.
func (c *Compressor) stream(ctx context.Context, fill func(*Stream) error, add func([]byte) error) error {
	s := &Stream{blockWriter: blockWriter{compressor: c, add: func(block []byte) error {
		// Every byte of a layer passes here, so a cancelled one ends here.
		if err := ctx.Err(); err != nil {
			return err
		}
		return add(block)
	}}}
	defer func() {
		for _, buf := range s.lent {
			c.recycle(buf)
		}
	}()
	if err := fill(s); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	return nil
}

// blockWriter cuts what is written to it into blocks, all full but the last one, for add to take
// over. Encoders and archives are written a few hundred bytes at a time.
type blockWriter struct {
	compressor *Compressor
	add        func([]byte) error
	block      []byte
}

func (w *blockWriter) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if w.block == nil {
			w.block = w.compressor.block()
		}
		n := min(len(p), blockBytes-len(w.block))
		w.block = append(w.block, p[:n]...)
		p = p[n:]
		if len(w.block) == blockBytes {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return written, nil
}

// flush gives away the last block.
func (w *blockWriter) flush() error {
	block := w.block
	w.block = nil
	if block == nil {
		return nil
	}
	return w.add(block)
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
