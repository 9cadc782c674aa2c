package compress

import (
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Archives go from one goroutine to the next in blocks of blockBytes. blocksKept of them stay in
// memory for the next archive.
const (
	blockBytes = 256 << 10
	blocksKept = 64
)

// An archive is cut into parts of so many bytes, which are compressed side by side: into members of
// a gzip file, or frames of a zstd file. A part can't refer back to those before it, which costs
// gzip less than 0.1 % of the size, and zstd 1.8 %. Larger parts would cost memory, where parts
// wait for each other. The sizes are part of the format of layers.
const (
	gzipPartBytes = 4 << 20
	zstdPartBytes = 8 << 20
	// The encoder that takes less memory would move a smaller window down for every block of 128
	// KiB, which takes a tenth of the time.
	zstdWindowBytes = zstdPartBytes
)

// A Compressor compresses layers on a number of cores: all layers together use no more, and one
// alone uses them all. The bytes of a layer depend neither on that number nor on what else is
// compressed. A Compressor is safe for concurrent use.
type Compressor struct {
	compression Compression
	partBytes   int
	encoders    chan encoder // as many as there are cores; nil until first used
	blocks      chan []byte  // to be used again
	chunks      *chunkCache
}

// errStopped means that nobody waits for the result any more.
var errStopped = errors.New("compressing was stopped")

// New makes a Compressor for a number of cores, which must be positive.
func New(compression Compression, cores int) *Compressor {
	c := &Compressor{
		compression: compression,
		partBytes:   gzipPartBytes,
		encoders:    make(chan encoder, cores),
		blocks:      make(chan []byte, blocksKept),
		chunks:      newChunkCache(),
	}
	if compression.isZstd() {
		c.partBytes = zstdPartBytes
	}
	for range cores {
		c.encoders <- nil
	}
	return c
}

// Compression returns the compression that c was made for.
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

// recycle takes back a block that nobody uses any more.
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
