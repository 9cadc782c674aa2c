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

	"github.com/opencontainers/go-digest"
)

// entries writes n symbolic links into a directory, with a cut after every hundredth.
func entries(dir string, n int) func(*Stream) error {
	return func(s *Stream) error {
		a := archive{tar.NewWriter(s)}
		for i := range n {
			name := fmt.Sprintf("%s/page%05d", dir, i)
			if err := a.link(name, "/nix/store/"+name); err != nil {
				return err
			}
			if i%100 == 99 {
				if err := s.Cut(); err != nil {
					return err
				}
			}
		}
		return a.Flush()
	}
}

// end is like entries, and ends the archive.
func end(dir string, n int) func(*Stream) error {
	return func(s *Stream) error {
		return cmp.Or(entries(dir, n)(s), tar.NewWriter(s).Close())
	}
}

func writeSections(t *testing.T, c *Compressor, rest func(*Stream) error, sections ...Section) []byte {
	t.Helper()
	var out bytes.Buffer
	result, err := c.WriteSections(t.Context(), &out, sections, rest)
	if err != nil {
		t.Error(err)
	}
	if result.Digest != digest.FromBytes(out.Bytes()) || result.Size != int64(out.Len()) {
		t.Errorf("wrote %d bytes of digest %s, reported %+v", out.Len(), digest.FromBytes(out.Bytes()), result)
	}
	if got := digest.FromBytes(decompressed(t, c.compression, out.Bytes())); got != result.DiffID {
		t.Errorf("the archive's digest is %s, reported %s", got, result.DiffID)
	}
	return out.Bytes()
}

// The cache changes nothing but the time.
func TestSectionsSameBytes(t *testing.T) {
	for _, compression := range compressions {
		t.Run(compression.String(), func(t *testing.T) {
			used := New(compression, 2)
			var all sync.WaitGroup
			for i := range 6 {
				all.Go(func() {
					section, rest := Section{Key: "the same", Fill: entries("a", 1000)}, end("b", 3000+i)
					want := writeSections(t, New(compression, 1), rest, section)
					for range 2 {
						if got := writeSections(t, used, rest, section); !bytes.Equal(got, want) {
							t.Errorf("archive %d: other bytes with what others left in memory", i)
						}
					}
				})
			}
			all.Wait()
			if compression == Gzip || compression == Zstd {
				if used.chunks.chunks.Bytes() == 0 {
					t.Error("nothing is remembered: the test shows nothing")
				}
			}
		})
	}
}

// A section is filled unless an archive began with it and all those before it. That changes nothing
// but the time.
func TestSections(t *testing.T) {
	for _, compression := range compressions {
		t.Run(compression.String(), func(t *testing.T) {
			used := New(compression, 2)
			rest := end("rest", 100)
			check := func(what, names, filled string) {
				t.Helper()
				write := func(c *Compressor) (archive []byte, filled string) {
					var sections []Section
					for _, name := range strings.Split(names, "") {
						sections = append(sections, Section{Key: name, Fill: func(s *Stream) error {
							filled += name
							return entries(name, 1000)(s)
						}})
					}
					return writeSections(t, c, rest, sections...), filled
				}
				want, all := write(New(compression, 1))
				got, some := write(used)
				if !bytes.Equal(got, want) {
					t.Errorf("%s: other bytes with what others left in memory", what)
				}
				if compression != Gzip && compression != Zstd {
					filled = all
				}
				if some != filled {
					t.Errorf("%s: filled %q, want %q", what, some, filled)
				}
			}
			forget := newChunkCache()
			check("the first archive", "abc", "abc")
			check("the same", "abc", "")
			check("one more at the end", "abcd", "d")
			check("fewer", "ab", "")
			check("one more in the middle", "abxc", "xc")
			check("in another order", "bac", "bac")
			used.chunks.chunks = forget.chunks
			check("chunks are forgotten", "abc", "abc")
			check("remembered again", "abc", "")
			used.chunks.sections = forget.sections
			check("sections are forgotten, chunks are not", "abc", "abc")
		})
	}
}

// The memory of sections is bounded, whatever they are called and however many chunks they have.
func TestSectionsAreBounded(t *testing.T) {
	c := newChunkCache()
	key := func(n int) sectionKey { return sectionKeys([]Section{{Key: fmt.Sprint(n)}})[0] }
	for n := range sectionCacheBytes / 300 {
		c.addSection(key(n), knownSection{chunks: make([]chunkKey, 10)})
	}
	if got := c.sections.Bytes(); got > sectionCacheBytes {
		t.Errorf("sections take %d bytes", got)
	}
	if c.sections.Contains(key(0)) || !c.sections.Contains(key(sectionCacheBytes/300-1)) {
		t.Error("the section that was used last is not kept, or the first one is")
	}
	c.addSection(key(-1), knownSection{chunks: make([]chunkKey, sectionCacheBytes/16)})
	if c.sections.Contains(key(-1)) {
		t.Error("a section of too many chunks is kept")
	}
}

func TestChunksAreBounded(t *testing.T) {
	c := New(Gzip, 1)
	noise := make([]byte, 2*chunkCacheBytes) // no smaller when it is compressed
	rand.NewChaCha8([32]byte{}).Read(noise)
	writeSections(t, c, whole(func(a archive) error { return a.file("f", string(noise)) }))
	if got := c.chunks.chunks.Bytes(); got > chunkCacheBytes || got < chunkCacheBytes/2 {
		t.Errorf("chunks take %d bytes, the limit is %d", got, chunkCacheBytes)
	}
}

func TestSectionsFail(t *testing.T) {
	c := New(Gzip, 1)
	broken := errors.New("the disk is full")
	for range 2 { // with and without the chunks in memory
		if _, err := c.WriteSections(t.Context(), failing{broken}, nil, end("a", 10_000)); !errors.Is(err, broken) {
			t.Errorf("to a writer that fails: %v", err)
		}
		fails := func(*Stream) error { return broken }
		if _, err := c.WriteSections(t.Context(), io.Discard, nil, fails); !errors.Is(err, broken) {
			t.Errorf("of a source that fails: %v", err)
		}
		stopped, stop := context.WithCancelCause(t.Context())
		stop(broken)
		_, err := c.WriteSections(stopped, io.Discard, nil, end("a", 10_000))
		if !errors.Is(err, broken) && !errors.Is(err, context.Canceled) {
			t.Errorf("when nobody waits any more: %v", err)
		}
		writeSections(t, c, end("a", 10_000)) // and goes on working
	}
}

// failing is a writer that always fails.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
