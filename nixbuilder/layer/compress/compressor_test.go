package compress

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// prose is text of n bytes that compresses about as programs do.
func prose(seed uint64, n int) string {
	random := rand.New(rand.NewPCG(seed, 2))
	var text strings.Builder
	for text.Len() < n {
		fmt.Fprintf(&text, "%x registry %d layer ", random.Uint64(), random.IntN(100))
	}
	return text.String()[:n]
}

// cutting is a Compressor with small parts.
func cutting(compression Compression, cores int) *Compressor {
	c := New(compression, cores)
	c.partBytes = 2 * blockBytes
	return c
}

// archive adds entries to an archive that a test writes.
type archive struct{ *tar.Writer }

func (a archive) file(name, content string) error {
	err := a.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: int64(len(content))})
	if err != nil {
		return err
	}
	_, err = io.WriteString(a, content)
	return err
}

func (a archive) link(name, target string) error {
	return a.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

// whole writes an archive from its beginning to its end.
func whole(fill func(archive) error) func(*Stream) error {
	return func(s *Stream) error {
		a := archive{tar.NewWriter(s)}
		return cmp.Or(fill(a), a.Close())
	}
}

// writeFile writes a layer of one file.
func writeFile(ctx context.Context, w io.Writer, c *Compressor, content string) (Result, error) {
	return c.Write(ctx, w, whole(func(a archive) error { return a.file("file", content) }))
}

func TestCompressorSameBytes(t *testing.T) {
	for _, compression := range compressions {
		var used *Compressor
		for _, size := range []int{0, 1, blockBytes, 2*blockBytes - 2048, 2 * blockBytes, 5*blockBytes + 12345} {
			t.Run(fmt.Sprint(compression, " ", size), func(t *testing.T) {
				content := prose(1, size)
				var want bytes.Buffer
				result, err := writeFile(t.Context(), &want, cutting(compression, 1), content)
				if err != nil {
					t.Fatal(err)
				}
				if result.Digest != digest.FromBytes(want.Bytes()) || result.Size != int64(want.Len()) {
					t.Errorf(
						"wrote %d bytes of digest %s, reported %+v", want.Len(),
						digest.FromBytes(want.Bytes()), result,
					)
				}
				if got := digest.FromBytes(decompressed(t, compression, want.Bytes())); got != result.DiffID {
					t.Errorf("the archive's digest is %s, reported %s", got, result.DiffID)
				}
				if used == nil {
					used = cutting(compression, 3)
				}
				var all sync.WaitGroup
				for i := range 4 { // side by side, and with encoders that had other work before
					all.Go(func() {
						other := prose(uint64(i+2), size/2+100*i)
						if _, err := writeFile(t.Context(), io.Discard, used, other); err != nil {
							t.Error(err)
						}
						var got bytes.Buffer
						_, err := writeFile(t.Context(), &got, used, content)
						if err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
							t.Errorf("other bytes on three cores (%v)", err)
						}
					})
				}
				all.Wait()
			})
		}
	}
}

func decompressed(t *testing.T, compression Compression, blob []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(blob)
	var err error
	switch compression {
	case Gzip, EStargz:
		r, err = gzip.NewReader(r)
	case Zstd, ZstdChunked:
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// brokenAfter fails once it has taken some bytes.
type brokenAfter int

var errBroken = errors.New("the storage is broken")

func (b *brokenAfter) Write(p []byte) (int, error) {
	if *b -= brokenAfter(len(p)); *b < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

// Whatever ends a layer early, its error is the cause of that, and the Compressor is as good as
// before.
func TestCompressorEndsEarly(t *testing.T) {
	content := prose(1, 6*blockBytes)
	errRead := errors.New("the store is broken")
	for _, compression := range compressions {
		c := cutting(compression, 2)
		for _, test := range []struct {
			name  string
			want  error
			write func(context.Context, context.CancelFunc) error
		}{
			{"writing fails at once", errBroken, func(ctx context.Context, _ context.CancelFunc) error {
				_, err := writeFile(ctx, new(brokenAfter), c, content)
				return err
			}},
			{"writing fails later", errBroken, func(ctx context.Context, _ context.CancelFunc) error {
				limit := brokenAfter(blockBytes / 4)
				_, err := writeFile(ctx, &limit, c, content)
				return err
			}},
			{"reading fails", errRead, func(ctx context.Context, _ context.CancelFunc) error {
				_, err := c.Write(ctx, io.Discard, whole(func(a archive) error {
					return cmp.Or(a.file("file", content), errRead)
				}))
				return err
			}},
			{"cancelled", context.Canceled, func(ctx context.Context, cancel context.CancelFunc) error {
				_, err := c.Write(ctx, io.Discard, whole(func(a archive) error {
					cancel()
					return a.file("file", content)
				}))
				return err
			}},
		} {
			t.Run(fmt.Sprint(compression, " ", test.name), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if err := test.write(ctx, cancel); !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
			})
		}
		var blob bytes.Buffer
		result, err := writeFile(t.Context(), &blob, c, content)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(decompressed(t, compression, blob.Bytes())); got != result.DiffID {
			t.Errorf("%s: the archive's digest is %s, reported %s", compression, got, result.DiffID)
		}
		if compression != None {
			for range cap(c.encoders) { // all came back
				<-c.encoders
			}
		}
	}
}
