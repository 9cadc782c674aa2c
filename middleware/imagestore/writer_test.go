package imagestore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// Blobs arrive whole, whatever their size and however they are written, and nothing is left of
// those that fail.
func TestUpload(t *testing.T) {
	const piece = 256 << 10
	broken := errors.New("broken")
	for _, test := range []struct {
		name  string
		size  int
		piece int
		lie   bool  // about the digest
		fail  error // in the end
	}{
		{name: "empty", piece: piece},
		{name: "one piece", size: 1000, piece: piece},
		{name: "just buffered", size: bufferBytes, piece: piece},
		{name: "just too large", size: bufferBytes + 1, piece: piece},
		{name: "large", size: 3*bufferBytes + 7, piece: piece},
		{name: "large, in one piece", size: 2 * bufferBytes, piece: 2 * bufferBytes},
		{name: "small, in many pieces", size: 1000, piece: 7},
		{name: "small, fails", size: 1000, piece: piece, fail: broken},
		{name: "large, fails", size: 3 * bufferBytes, piece: piece, fail: broken},
		{name: "small, of another digest", size: 1000, piece: piece, lie: true},
		{name: "large, of another digest", size: 3 * bufferBytes, piece: piece, lie: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStoring(t, Options{})
			content := bytes.Repeat([]byte("0123456"), test.size/7+1)[:test.size]
			dgst := digest.FromBytes(content)
			if test.lie {
				dgst = digest.FromString("something else")
			}
			told := 0
			into := s.Writer(s.repo)
			err := into.Upload(t.Context(), func(w io.Writer) (digest.Digest, error) {
				for rest := content; len(rest) > 0; {
					buf := bytes.Clone(rest[:min(test.piece, len(rest))])
					if n, err := w.Write(buf); n != len(buf) || err != nil {
						return "", errors.Join(err, io.ErrShortWrite)
					}
					rest = rest[len(buf):]
					clear(buf) // it is used for something else
				}
				return dgst, test.fail
			}, func(_ context.Context, err error) error {
				told++
				return err
			})
			err = errors.Join(err, into.background.Wait())
			if told != 1 {
				t.Errorf("told %d times how it ended", told)
			}
			got, readErr := s.repo.Blobs(t.Context()).Get(t.Context(), dgst)
			switch failing := test.lie || test.fail != nil; {
			case failing && (err == nil || readErr == nil || test.fail != nil && !errors.Is(err, test.fail)):
				t.Errorf("the upload ends with %v, and what it was said to be can be read: %v", err, readErr)
			case !failing && (err != nil || readErr != nil || !bytes.Equal(got, content)):
				t.Errorf(
					"the upload ends with %v; %d of %d bytes can be read, %v", err, len(got), len(content),
					readErr,
				)
			}
			if test.lie {
				return // the registry refuses it, and keeps what it can look into
			}
			left, err := s.files.List(t.Context(), "/docker/registry/v2/repositories/image/_uploads")
			if len(left) > 0 || err != nil && !errors.As(err, new(driver.PathNotFoundError)) {
				t.Errorf("uploads are left: %v, %v", left, err)
			}
		})
	}
}
