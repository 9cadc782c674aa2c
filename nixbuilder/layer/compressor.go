package layer

import (
	"context"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Archives go from one goroutine to the next in pieces of blockBytes. Some are kept for the next
// archive.
const (
	blockBytes = 256 << 10
	blocksKept = 64
)

// A layer's archive is cut into parts of this many bytes, which are compressed side by side: into
// members of a gzip file, into frames of a zstd file. Decompressors take them for one. The sizes
// are part of the format of layers, and a compromise with memory, where parts wait for each other:
// a part begins with nothing to refer back to. That costs gzip less than 0.1 %, and zstd 1.8 %.
const (
	gzipPartBytes = 4 << 20
	zstdPartBytes = 8 << 20
	// The encoder that takes less memory would move a smaller window down for every block of 128
	// KiB, which takes a tenth of the time.
	zstdWindowBytes = zstdPartBytes
)

// A Compressor compresses layers. All layers together use as many cores for it as it was made for,
// and one alone uses them all. The bytes of a layer depend neither on how many cores there are nor
// on what else is compressed. It is safe for concurrent use.
type Compressor struct {
	compression Compression
	partBytes   int
	encoders    chan encoder // as many as there are cores; nil until first used
	blocks      chan []byte  // to be used again
	recurring   *recurring
}

// errStopped is that nobody waits for the result any more.
var errStopped = errors.New("compressing was stopped")

// NewCompressor makes a Compressor for a number of cores, which must be positive.
func NewCompressor(compression Compression, cores int) *Compressor {
	c := &Compressor{
		compression: compression,
		partBytes:   gzipPartBytes,
		encoders:    make(chan encoder, cores),
		blocks:      make(chan []byte, blocksKept),
		recurring:   newRecurring(),
	}
	if compression.isZstd() {
		c.partBytes = zstdPartBytes
	}
	for range cores {
		c.encoders <- nil
	}
	return c
}

// Compression is what the Compressor was made for.
func (c *Compressor) Compression() Compression { return c.compression }

// block returns an empty block.
func (c *Compressor) block() []byte {
	select {
	case used := <-c.blocks:
		return used[:0]
	default:
		return make([]byte, 0, blockBytes)
	}
}

// recycle takes back a block that nobody holds any more.
func (c *Compressor) recycle(block []byte) {
	select {
	case c.blocks <- block:
	default:
	}
}

// encoder is a gzip.Writer or a zstd.Encoder. It keeps its tables from one part to the next, never
// what it learned.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

func (c *Compressor) newEncoder() (encoder, error) {
	if c.compression.isZstd() {
		// One goroutine: parts are encoded side by side. The fastest level takes a fifth less time
		// for a tenth more bytes, which every pull pays for.
		return zstd.NewWriter(
			nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
			zstd.WithWindowSize(zstdWindowBytes), zstd.WithLowerEncoderMem(true),
		)
	}
	return gzip.NewWriterLevel(nil, gzipLevel)
}

// parts compresses a stream of blocks, part by part. Start it with begin.
type parts struct {
	compressor *Compressor
	queue      chan *part    // in the order of the stream; the writer takes them from it
	written    chan error    // how the writer ended
	stop       chan struct{} // closed when the writer ends
	current    *part
	left       int       // bytes that the current part takes
	added      []partKey // by addPart
}

// part is one that is being compressed.
type part struct {
	in   chan []byte // as much as a whole part, so that the next one can begin before this one is compressed
	out  chan []byte
	err  error // read after out is closed
	kept bool  // what comes out is kept, and not to be used again
}

// begin starts to write to w, in order, what add is given. The caller must call end.
func (c *Compressor) begin(w io.Writer) *parts {
	p := &parts{
		compressor: c,
		// Finished parts wait in memory for those before them, and for w: no more than these.
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

// add takes over a block; all but the last one are full. It fails if ctx is done or the writer has
// failed, which end tells more about.
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

// encoder takes one, once a core is free for it.
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

// enqueue makes a part the next one that is written.
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

// end returns when all that was added is written, or the first failure to write it.
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
