package blobserver

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/felixge/httpsnoop"
)

// outermostKey is the key of a request's *outermost in its context.
type outermostKey struct{}

// An outermost is the writer that a request came with from the network, before others were put
// around it.
type outermost struct {
	io.ReaderFrom
	sent bool // what is written now was sent already
}

// Handler is put around the registry's handler and around all that counts what is written, such as
// the access log.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		network, ok := w.(io.ReaderFrom)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		out := &outermost{ReaderFrom: network}
		w = httpsnoop.Wrap(w, httpsnoop.Hooks{Write: func(write httpsnoop.WriteFunc) httpsnoop.WriteFunc {
			return func(p []byte) (int, error) {
				if out.sent {
					return len(p), nil
				}
				return write(p)
			}
		}})
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), outermostKey{}, out)))
	})
}

// outermostOf is nil where there is no Handler, or where the network's writer reads from nothing, as
// that of HTTP/2.
func outermostOf(r *http.Request) *outermost {
	out, _ := r.Context().Value(outermostKey{}).(*outermost)
	return out
}

// bufferBytes is the size of the buffers that blobs go through where the system can't send them.
const bufferBytes = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// nothing is written in the place of what was sent. It is never read.
var nothing [1 << 20]byte

// A sender is a ResponseWriter that has the network read blobs.
type sender struct {
	http.ResponseWriter
	out *outermost
}

// ReadFrom sends a part of a blob, which http.ServeContent has as an *io.LimitedReader.
func (s sender) ReadFrom(src io.Reader) (int64, error) {
	part, _ := src.(*io.LimitedReader)
	if part == nil || s.out == nil {
		return s.copy(src)
	}
	blob, ok := part.R.(*content)
	if !ok {
		return s.copy(src)
	}
	if err := blob.open(); err != nil {
		return 0, err
	}
	sent, err := s.out.ReadFrom(&io.LimitedReader{R: blob.reader, N: part.N})
	blob.offset += sent
	s.count(sent)
	return sent, err
}

// copy goes through a buffer that is used again.
func (s sender) copy(src io.Reader) (int64, error) {
	buffer := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{s.ResponseWriter}, src, buffer[:])
}

// count has the writers in between count what was sent.
func (s sender) count(sent int64) {
	s.out.sent = true
	defer func() { s.out.sent = false }()
	for sent > 0 {
		n, err := s.Write(nothing[:min(sent, int64(len(nothing)))])
		if err != nil || n == 0 {
			return
		}
		sent -= int64(n)
	}
}
