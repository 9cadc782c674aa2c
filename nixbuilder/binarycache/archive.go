package binarycache

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
)

// maxWindow bounds the memory of one decompressor for what it refers back to: the window of xz -9,
// and of zstd -19.
const maxWindow = 64 << 20

// bufferBytes is how much of an archive is read at once.
const bufferBytes = 256 << 10

// compressions that archives come in.
var compressions = []string{"none", "xz", "zstd", "bzip2", "gzip"}

// decompressor returns a reader of what is compressed in r, and a function that releases it. Its
// memory is bounded.
func decompressor(compression string, r io.Reader) (io.Reader, func(), error) {
	done := func() {}
	switch compression {
	case "none":
		return r, done, nil
	case "xz":
		plain, err := xz.NewReader(r, maxWindow)
		return plain, done, err
	case "zstd":
		plain, err := zstd.NewReader(
			r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow),
			zstd.WithDecoderLowmem(true),
		)
		if err != nil {
			return nil, done, err
		}
		return plain, plain.Close, nil
	case "bzip2":
		return bzip2.NewReader(r), done, nil
	case "gzip":
		plain, err := gzip.NewReader(r)
		return plain, done, err
	}
	return nil, done, fmt.Errorf("the compression %q is unknown", compression)
}

// Read downloads the archive and visits all that is in it, as nar.Read does. What was visited
// counts only if Read succeeds, because size and hash are those of the whole archive. If the
// archive is gone or not what was signed, the error is a *MissingError, and the path is looked for
// anew the next time. The memory does not grow with the archive.
func (a *Archive) Read(ctx context.Context, visit func(nar.Entry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source := a.cache.download(ctx, a.file)
	defer source.close()
	var visitErr error
	err := a.check(source, func(e nar.Entry) error {
		visitErr = visit(e)
		return visitErr
	})
	var wrong wrongError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(source.err, fs.ErrNotExist):
		return a.damaged("the archive is gone", source.err)
	case source.err != nil && a.cache.share != nil:
		a.cache.share.Failed(source.err)
		return a.damaged("it does not answer", source.err)
	case source.err != nil:
		return fmt.Errorf("downloading %s: %s: %w", a.Path, a.cache.url.Redacted(), source.err)
	case errors.As(err, &wrong):
		return a.damaged(string(wrong), err)
	case visitErr != nil:
		return visitErr
	}
	return a.damaged("the archive can't be read", err)
}

// damaged has the path looked for in other caches for some time.
func (a *Archive) damaged(what string, err error) error {
	logrus.Warnf("nix: %s in %s: %s: %v", a.Path, a.cache.url.Redacted(), what, err)
	reason := "a binary cache has it, but " + what
	a.caches.damaged.Add(damage{a.cache, a.Path}, reason)
	a.caches.known.Remove(a.Path)
	return &MissingError{Path: a.Path, Reason: reason, Damaged: true}
}

// A wrongError means that an archive is not what was signed.
type wrongError string

func (e wrongError) Error() string { return string(e) }

// check reads the archive out of source and compares it with what was said about it.
func (a *Archive) check(source io.Reader, visit func(nar.Entry) error) error {
	stored := &meter{r: source, most: cmp.Or(a.fileBytes, 2*a.NarSize+bufferBytes)}
	if a.fileHash != nil {
		stored.hash = sha256.New()
	}
	compressed := bufio.NewReaderSize(stored, bufferBytes)
	plain, done, err := decompressor(a.compression, compressed)
	defer done()
	if err != nil {
		return err
	}
	archive := &meter{r: plain, most: a.NarSize, hash: sha256.New()}
	buffered := bufio.NewReaderSize(archive, bufferBytes)
	err = nar.Read(buffered, visit)
	switch {
	case archive.long || stored.long:
		return wrongError("the archive is longer than was signed")
	case archive.ended && archive.read < a.NarSize:
		return wrongError("the archive is cut off")
	case archive.err != nil:
		return wrongError("the archive can't be decompressed")
	case err != nil:
		return err
	}
	// Bytes that follow belong to the hashes, too, and there must be none.
	for _, rest := range []io.Reader{buffered, compressed} {
		_, _ = io.Copy(io.Discard, rest) // the meters know how it ended
	}
	switch {
	case archive.err != nil:
		return wrongError("the archive can't be decompressed")
	case archive.long || stored.long:
		return wrongError("the archive is longer than was signed")
	case archive.read != a.NarSize || !bytes.Equal(archive.hash.Sum(nil), a.narHash):
		return wrongError("the archive is not the one that was signed")
	case stored.hash != nil && !bytes.Equal(stored.hash.Sum(nil), a.fileHash):
		return wrongError("the archive's file has another hash than the cache says")
	}
	return nil
}

// A meter hashes and counts what is read, and remembers how the reading ended.
type meter struct {
	r     io.Reader
	hash  hash.Hash // nil: none
	most  int64     // bytes
	read  int64
	ended bool
	long  bool  // there is more
	err   error // what ended it, but for io.EOF
}

func (m *meter) Read(p []byte) (int, error) {
	if m.long {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := m.r.Read(p)
	if m.read += int64(n); m.read > m.most {
		m.long = true
		return 0, io.ErrUnexpectedEOF
	}
	if m.hash != nil {
		m.hash.Write(p[:n])
	}
	switch {
	case errors.Is(err, io.EOF):
		m.ended = true
	case err != nil:
		m.err = err
	}
	return n, err
}
