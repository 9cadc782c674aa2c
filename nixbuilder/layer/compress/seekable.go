package compress

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// writeSeekable writes a layer in which every file is compressed by itself, with a table at its end
// of where each is. The form is that of
// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md. Names that are not
// UTF-8 are wrong in the table, which is JSON.
func (c *Compressor) writeSeekable(ctx context.Context, w io.Writer, fill func(*Stream) error) (Result, error) {
	blob := &meter{w: w, hash: sha256.New()}
	frames := &frames{compressor: c, annotations: make(map[string]string)}
	out := estargz.NewWriterWithCompressor(blob, frames)
	reader, writer := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := out.AppendTar(reader)
		reader.CloseWithError(errors.Join(err, errStopped))
		read <- err
	}()
	err := c.stream(ctx, func(s *Stream) error {
		if err := landmark(s); err != nil {
			return err
		}
		return fill(s)
	}, func(block []byte) error {
		_, err := writer.Write(block)
		c.recycle(block)
		return err
	})
	writer.CloseWithError(err)
	readErr := <-read
	if blob.err != nil {
		readErr = blob.err // which estargz reports as a text
	}
	if readErr != nil && (err == nil || errors.Is(err, errStopped)) {
		err = fmt.Errorf("writing layer: %w", readErr)
	}
	if err != nil {
		frames.abandon()
		return Result{}, err
	}
	table, err := out.Close()
	if err != nil {
		frames.abandon()
		return Result{}, fmt.Errorf("writing layer: %w", err)
	}
	diffID, err := digest.Parse(out.DiffID())
	if err != nil {
		return Result{}, err
	}
	frames.annotations[estargz.TOCJSONDigestAnnotation] = table.String()
	frames.annotations[estargz.StoreUncompressedSizeAnnotation] = strconv.FormatInt(frames.plainBytes, 10)
	return Result{
		Digest: blob.digest(), Size: blob.size, DiffID: diffID, Annotations: frames.annotations,
	}, nil
}

// landmark writes the file that tells clients to load nothing before it is asked for.
func landmark(w io.Writer) error {
	archive := tar.NewWriter(w)
	const content = "\x0f"
	err := archive.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: estargz.NoPrefetchLandmark, Mode: 0o644, Size: int64(len(content)),
		ModTime: time.Unix(1, 0),
	})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(archive, content); err != nil {
		return err
	}
	return archive.Flush() // the entries of the layer follow
}

// frames compresses the files of a seekable layer, one after the other, with the encoders that all
// layers share. It is an estargz.Compressor.
type frames struct {
	compressor  *Compressor
	annotations map[string]string
	plainBytes  int64
	encoder     encoder // in use, or nil
}

// Writer begins a frame, after the one before it was closed.
func (f *frames) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	e := <-f.compressor.encoders
	if e == nil {
		var err error
		if e, err = f.compressor.newEncoder(); err != nil {
			f.compressor.encoders <- nil
			return nil, err
		}
	}
	e.Reset(w)
	f.encoder = e
	return frame{f}, nil
}

// abandon frees the core of a frame that will not be closed.
func (f *frames) abandon() {
	if f.encoder != nil {
		f.compressor.encoders <- nil
	}
}

// WriteTOCAndFooter ends the layer.
func (f *frames) WriteTOCAndFooter(
	w io.Writer, offset int64, table *estargz.JTOC, diffHash hash.Hash,
) (digest.Digest, error) {
	if f.compressor.compression == ZstdChunked {
		last := &zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: f.annotations}
		return last.WriteTOCAndFooter(w, offset, table, diffHash)
	}
	return estargz.NewGzipCompressorWithLevel(gzip.DefaultCompression).
		WriteTOCAndFooter(w, offset, table, &countingHash{diffHash, &f.plainBytes})
}

// frame is the frame that is being compressed.
type frame struct{ *frames }

func (f frame) Write(p []byte) (int, error) {
	f.plainBytes += int64(len(p))
	return f.encoder.Write(p)
}

func (f frame) Flush() error { return f.encoder.Flush() }

// Close gives the encoder back.
func (f frame) Close() error {
	if err := f.encoder.Close(); err != nil {
		return err // and is abandoned
	}
	f.compressor.encoders <- f.encoder
	f.encoder = nil
	return nil
}

// countingHash counts what is hashed.
type countingHash struct {
	hash.Hash
	bytes *int64
}

func (h *countingHash) Write(p []byte) (int, error) {
	*h.bytes += int64(len(p))
	return h.Hash.Write(p)
}
