package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

func writeLinks(t *testing.T, c *Compressor, fill func(*Tar) error) []byte {
	t.Helper()
	var out bytes.Buffer
	result, err := WriteRecurring(t.Context(), &out, c, fill)
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
					fill := links(3000, 7*i, 1500+i, 1500)
					want := writeLinks(t, NewCompressor(compression, 1), fill)
					for range 2 {
						if got := writeLinks(t, used, fill); !bytes.Equal(got, want) {
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
		t.Errorf("%d parts of %d bytes are held, counted as %d; the limit is %d", r.parts.Len(), len(compressed), r.bytes, recurringBytes)
	}
}

func TestRecurringFails(t *testing.T) {
	c := NewCompressor(Gzip, 1)
	broken := errors.New("the disk is full")
	for range 2 { // with and without the parts in memory
		if _, err := WriteRecurring(t.Context(), failing{broken}, c, links(10_000)); !errors.Is(err, broken) {
			t.Errorf("to a writer that fails: %v", err)
		}
		if _, err := WriteRecurring(t.Context(), io.Discard, c, func(*Tar) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("of a source that fails: %v", err)
		}
		stopped, stop := context.WithCancelCause(t.Context())
		stop(broken)
		if _, err := WriteRecurring(stopped, io.Discard, c, links(10_000)); !errors.Is(err, broken) && !errors.Is(err, context.Canceled) {
			t.Errorf("when nobody waits any more: %v", err)
		}
		writeLinks(t, c, links(10_000)) // and goes on working
	}
}

// failing is a writer that does nothing else.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
