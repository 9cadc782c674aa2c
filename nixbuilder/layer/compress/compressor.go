package compress

import (
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
	chunks      *chunkCache
}

// errStopped is that nobody waits for the result any more.
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
