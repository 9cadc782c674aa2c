package compress

import (
	"bytes"
	"context"
	"io"
)

// parts compresses a stream of blocks, part by part. Start it with begin.
type parts struct {
	compressor *Compressor
	queue      chan *part    // in the order of the stream; the writer takes them from it
	written    chan error    // how the writer ended
	stop       chan struct{} // closed when the writer ends
	current    *part
	left       int        // bytes that the current part takes
	added      []chunkKey // by addChunk
}

// A part is compressed on a goroutine of its own.
type part struct {
	in   chan []byte // takes a whole part, so that the next one can begin before this one is compressed
	out  chan []byte
	err  error // read after out is closed
	kept bool  // the cache keeps what comes out, so it is not recycled
}

// begin starts to compress the blocks that add takes, and to write them to w in order. The caller
// must call end.
func (c *Compressor) begin(w io.Writer) *parts {
	p := &parts{
		compressor: c,
		// Finished parts wait in memory for those before them, and for w: at most one for each
		// core.
		queue:   make(chan *part, cap(c.encoders)),
		written: make(chan error, 1),
		stop:    make(chan struct{}),
	}
	go func() {
		defer close(p.stop)
		p.written <- p.write(w)
	}()
	return p
}

// write takes the parts in order until there are no more, or w fails.
func (p *parts) write(w io.Writer) error {
	for next := range p.queue {
		for block := range next.out {
			if _, err := w.Write(block); err != nil {
				return err
			}
			if !next.kept {
				p.compressor.recycle(block)
			}
		}
		if next.err != nil {
			return next.err
		}
	}
	return nil
}

// add takes over a block; all but the last one are full. It fails if ctx is done, or if the writer
// has failed: then end returns why.
func (p *parts) add(ctx context.Context, block []byte) error {
	if p.left == 0 {
		if err := p.next(ctx); err != nil {
			return err
		}
	}
	p.left -= len(block)
	select {
	case p.current.in <- block:
		return nil
	case <-p.stop:
		return errStopped
	}
}

// next ends the current part and begins another, once a core is free for it.
func (p *parts) next(ctx context.Context) error {
	p.finish()
	e, err := p.encoder(ctx)
	if err != nil {
		return err
	}
	size := p.compressor.partBytes / blockBytes
	begun := &part{in: make(chan []byte, size), out: make(chan []byte, size)}
	go func() {
		defer close(begun.out)
		e, begun.err = p.compressor.encode(e, begun, p.stop)
		p.compressor.encoders <- e
	}()
	p.current, p.left = begun, p.compressor.partBytes
	return p.enqueue(begun)
}

// encoder waits for a free core, and takes the encoder that belongs to it. That is nil if the core
// has not been used yet.
func (p *parts) encoder(ctx context.Context) (encoder, error) {
	select {
	case e := <-p.compressor.encoders:
		return e, nil
	case <-p.stop:
		return nil, errStopped
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// enqueue has a part written after those before it.
func (p *parts) enqueue(next *part) error {
	select {
	case p.queue <- next:
		return nil
	case <-p.stop:
		return errStopped
	}
}

// finish ends the current part, if there is one.
func (p *parts) finish() {
	if p.current != nil {
		close(p.current.in)
		p.current, p.left = nil, 0
	}
}

// end waits until all that was added is written, and returns the first failure to write it.
func (p *parts) end() error {
	p.finish()
	close(p.queue)
	return <-p.written
}

// encode compresses one part, and returns the encoder, or none if it is of no more use.
func (c *Compressor) encode(e encoder, p *part, stop <-chan struct{}) (encoder, error) {
	if e == nil {
		var err error
		if e, err = c.newEncoder(); err != nil {
			return nil, err
		}
	}
	out := &blockWriter{compressor: c, add: func(block []byte) error {
		select {
		case p.out <- block:
			return nil
		case <-stop:
			return errStopped
		}
	}}
	e.Reset(out)
	for block := range p.in {
		if _, err := e.Write(block); err != nil {
			return nil, err
		}
		c.recycle(block)
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return e, out.flush()
}

// addChunk takes over a block that is a chunk of its own, and compresses it if it is not in the
// cache. It fails as add does.
func (p *parts) addChunk(ctx context.Context, block []byte) error {
	key := p.compressor.chunks.key(block)
	p.added = append(p.added, key)
	if compressed, known := p.compressor.chunks.chunks.Get(key); known {
		p.compressor.recycle(block)
		return p.addCompressed(compressed)
	}
	e, err := p.encoder(ctx)
	if err != nil {
		return err
	}
	chunk := &part{out: make(chan []byte, 1), kept: true}
	go func() {
		defer close(chunk.out)
		var compressed []byte
		e, compressed, chunk.err = p.compressor.encodeChunk(e, block)
		p.compressor.encoders <- e
		if chunk.err == nil {
			p.compressor.chunks.chunks.Add(key, compressed, len(compressed))
			chunk.out <- compressed
		}
	}()
	return p.enqueue(chunk)
}

// addCompressed adds a chunk that is compressed already.
func (p *parts) addCompressed(compressed []byte) error {
	chunk := &part{out: make(chan []byte, 1), kept: true}
	chunk.out <- compressed
	close(chunk.out)
	return p.enqueue(chunk)
}

// encodeChunk compresses a block and takes it over. It returns the encoder, or none if it is of no
// more use.
func (c *Compressor) encodeChunk(e encoder, block []byte) (encoder, []byte, error) {
	defer c.recycle(block)
	if e == nil {
		var err error
		if e, err = c.newEncoder(); err != nil {
			return nil, nil, err
		}
	}
	var compressed bytes.Buffer
	e.Reset(&compressed)
	if _, err := e.Write(block); err != nil {
		return nil, nil, err
	}
	if err := e.Close(); err != nil {
		return nil, nil, err
	}
	return e, bytes.Clone(compressed.Bytes()), nil
}
