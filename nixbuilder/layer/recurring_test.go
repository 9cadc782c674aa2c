package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// links fills an archive with n symbolic links and those named besides, sorted in.
func links(n int, more ...int) func(*Tar) error {
	return func(t *Tar) error {
		for i := range n {
			name := fmt.Sprintf("share/man/man3/page%05d", i)
			if err := t.Symlink(name, "/nix/store/"+name); err != nil {
				return err
			}
			for _, m := range more {
				if m == i {
					if err := t.Symlink(name+"a", "/nix/store/"+name); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
}

func writeLinks(t *testing.T, c *Compressor, rest func(*Tar) error, sections ...Section) []byte {
	t.Helper()
	var out bytes.Buffer
	result, err := WriteRecurring(t.Context(), &out, c, sections, rest)
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

// What is remembered changes nothing but the time.
func TestRecurringSameBytes(t *testing.T) {
	for _, compression := range compressions {
		t.Run(compression.String(), func(t *testing.T) {
			used := NewCompressor(compression, 2)
			var all sync.WaitGroup
			for i := range 6 {
				all.Go(func() {
					section, fill := Section{Key: "the same", Fill: links(1000)}, links(3000, 7*i, 1500+i, 1500)
					want := writeLinks(t, NewCompressor(compression, 1), fill, section)
					for range 2 {
						if got := writeLinks(t, used, fill, section); !bytes.Equal(got, want) {
							t.Errorf("archive %d: other bytes with what others left in memory", i)
						}
					}
				})
			}
			all.Wait()
			if compression == Gzip || compression == Zstd {
				if used.recurring.parts.Len() == 0 {
					t.Error("nothing is remembered: the test shows nothing")
				}
			}
		})
	}
}

// One entry more changes the part it is in.
func TestRecurringPartsAreKnown(t *testing.T) {
	c := NewCompressor(Gzip, 1)
	writeLinks(t, c, links(10_000))
	before := c.recurring.parts.Len()
	if before < 20 {
		t.Fatalf("an archive of 10,000 entries has %d parts", before)
	}
	writeLinks(t, c, links(10_000, 5000))
	if added := c.recurring.parts.Len() - before; added < 1 || added > 3 {
		t.Errorf("with one entry more, %d of %d parts are others, want one to three", added, before)
	}
}

// A section is filled unless an archive began with it and all those before it, and that changes
// nothing but the time.
func TestSections(t *testing.T) {
	for _, compression := range compressions {
		t.Run(compression.String(), func(t *testing.T) {
			used := NewCompressor(compression, 2)
			rest := links(100)
			check := func(what, names, filled string) {
				t.Helper()
				write := func(c *Compressor) (archive []byte, filled string) {
					var sections []Section
					for _, name := range strings.Split(names, "") {
						sections = append(sections, Section{Key: name, Fill: func(t *Tar) error {
							filled += name
							for i := range 1000 {
								if err := t.Symlink(
									fmt.Sprintf("%s/%d", name, i), fmt.Sprintf("/nix/store/%s/%d", name, i),
								); err != nil {
									return err
								}
							}
							return nil
						}})
					}
					return writeLinks(t, c, rest, sections...), filled
				}
				want, all := write(NewCompressor(compression, 1))
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
			check("the first archive", "abc", "abc")
			check("the same", "abc", "")
			check("one more at the end", "abcd", "d")
			check("fewer", "ab", "")
			check("one more in the middle", "abxc", "xc")
			check("in another order", "bac", "bac")
			used.recurring.parts.Purge()
			check("parts are forgotten", "abc", "abc")
			check("remembered again", "abc", "")
			used.recurring.sections.Purge()
			check("sections are forgotten, parts are not", "abc", "abc")
		})
	}
}

// A section of very many parts is not remembered, so that those after it are not found either.
func TestSectionsAreBounded(t *testing.T) {
	c := NewCompressor(Gzip, 1)
	large := Section{Key: "large", Fill: func(archive *Tar) error {
		for i := range sectionParts + 1 {
			if err := errors.Join(archive.Symlink(fmt.Sprint(i), "/nix/store"), archive.endPart()); err != nil {
				return err
			}
		}
		return nil
	}}
	small := Section{Key: "small", Fill: links(100)}
	writeLinks(t, c, links(100), large, small)
	if got := c.recurring.begin(sectionKeys([]Section{large, small})); got.sections != 0 {
		t.Errorf("%d sections are known", got.sections)
	}
	for i := range 2 * sectionsKept {
		writeLinks(t, c, links(0), Section{Key: fmt.Sprint(i), Fill: links(1)})
	}
	if got := c.recurring.sections.Len(); got != sectionsKept {
		t.Errorf("%d sections are kept, want %d", got, sectionsKept)
	}
}

func TestRecurringIsBounded(t *testing.T) {
	r := newRecurring()
	compressed := make([]byte, 100_000)
	for n := range 3 * recurringBytes / len(compressed) {
		key := r.key(fmt.Append(nil, n))
		for range 2 { // as two that are making the same
			r.add(key, compressed)
		}
		if _, ok := r.get(key); !ok {
			t.Fatalf("part %d is forgotten at once", n)
		}
	}
	if r.bytes > recurringBytes || r.bytes != r.parts.Len()*(len(compressed)+recurringOverhead) {
		t.Errorf(
			"%d parts of %d bytes are held, counted as %d; the limit is %d", r.parts.Len(), len(compressed),
			r.bytes, recurringBytes,
		)
	}
}

func TestRecurringFails(t *testing.T) {
	c := NewCompressor(Gzip, 1)
	broken := errors.New("the disk is full")
	for range 2 { // with and without the parts in memory
		if _, err := WriteRecurring(t.Context(), failing{broken}, c, nil, links(10_000)); !errors.Is(err, broken) {
			t.Errorf("to a writer that fails: %v", err)
		}
		if _, err := WriteRecurring(t.Context(), io.Discard, c, nil, func(*Tar) error { return broken }); !errors.Is(
			err, broken,
		) {
			t.Errorf("of a source that fails: %v", err)
		}
		stopped, stop := context.WithCancelCause(t.Context())
		stop(broken)
		if _, err := WriteRecurring(stopped, io.Discard, c, nil, links(10_000)); !errors.Is(err, broken) &&
			!errors.Is(err, context.Canceled) {
			t.Errorf("when nobody waits any more: %v", err)
		}
		writeLinks(t, c, links(10_000)) // and goes on working
	}
}

// failing is a writer that does nothing else.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
