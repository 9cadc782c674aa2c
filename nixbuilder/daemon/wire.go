package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/nix-community/go-nix/pkg/wire"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// These limit what the daemon sends. The first two end the conversation. The others cut a text
// short: how long a line or an error message is depends on whoever wrote the package.
const (
	maxStringBytes = 1 << 30
	maxCount       = 1 << 17

	keepPathBytes  = 1 << 10
	keepLineBytes  = 16 << 10
	keepErrorBytes = 64 << 10
	// The JSON about an output also lists the outputs that it depends on.
	keepRealisationBytes = 1 << 20
)

// A reader reads the protocol's primitives. After the first error, every value is zero, so callers
// read a whole answer and look at err once.
type reader struct {
	r   *bufio.Reader
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) uint() uint64 {
	if r.err != nil {
		return 0
	}
	n, err := wire.ReadUint64(r.r)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		r.fail(fmt.Errorf("reading a number: %w", err))
	}
	return n
}

// size reads a number of bytes or seconds.
func (r *reader) size() int64 {
	n := r.uint()
	if n > math.MaxInt64 {
		r.fail(fmt.Errorf("reading a number: %d is out of range", n))
		return 0
	}
	return int64(n)
}

// count reads how many elements follow. It bounds loops, and is never used to allocate.
func (r *reader) count() int {
	n := r.uint()
	if n > maxCount {
		r.fail(fmt.Errorf("reading a count: %d is more than %d", n, maxCount))
		return 0
	}
	return int(n)
}

// text reads a string and keeps at most its first keep bytes.
func (r *reader) text(keep int) string {
	n := r.uint()
	if n > maxStringBytes {
		r.fail(fmt.Errorf("reading a string: %d bytes are more than %d", n, maxStringBytes))
	}
	if r.err != nil {
		return ""
	}
	length := int(n)
	padded := (length + 7) &^ 7
	kept := make([]byte, min(length, keep))
	if _, err := io.ReadFull(r.r, kept); err != nil {
		r.fail(fmt.Errorf("reading a string: %w", err))
		return ""
	}
	if _, err := r.r.Discard(padded - len(kept)); err != nil {
		r.fail(fmt.Errorf("reading a string: %w", err))
		return ""
	}
	return string(kept)
}

func (r *reader) skipText() { r.text(0) }

func (r *reader) skipTexts() {
	for n := r.count(); n > 0 && r.err == nil; n-- {
		r.skipText()
	}
}

func (r *reader) path() store.Path {
	s := r.text(keepPathBytes)
	if r.err != nil {
		return ""
	}
	p, err := store.ParsePath(s)
	if err != nil {
		r.fail(err)
	}
	return p
}

func (r *reader) paths() []store.Path {
	var paths []store.Path
	for n := r.count(); n > 0 && r.err == nil; n-- {
		paths = append(paths, r.path())
	}
	return paths
}

// A writer writes the protocol's primitives. The bufio.Writer keeps the first error; flush returns
// it.
type writer struct{ w *bufio.Writer }

func (w writer) uint(n uint64)   { _ = wire.WriteUint64(w.w, n) }
func (w writer) string(s string) { _ = wire.WriteString(w.w, s) }
func (w writer) flush() error    { return w.w.Flush() }

func (w writer) targets(targets []DerivedPath) {
	w.uint(uint64(len(targets)))
	for _, t := range targets {
		w.string(t.String())
	}
}
