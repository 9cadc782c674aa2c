package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// patience is how long a server may take to send so many bytes. The time that it takes to use them
// does not count.
type patience struct {
	time  time.Duration
	bytes int64
}

// defaultPatience ends only servers that could not send nixpkgs within fetchTime either.
func defaultPatience() patience { return patience{30 * time.Second, 64 << 10} }

// A patientBody ends its request when the server sends nothing, or nearly nothing, for too long.
// Only one Read may run at a time.
type patientBody struct {
	io.ReadCloser
	allowed patience
	left    time.Duration // for the next patience.bytes
	got     int64         // how many of these have come
	cancel  context.CancelCauseFunc
	cause   func() error // of the request's end; nil: it goes on
}

// getPatiently does a request that may take as long as ctx says, but ends when the server keeps
// silent. The caller closes the answer's Body.
func getPatiently(ctx context.Context, client *http.Client, from string, allowed patience) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	body := &patientBody{
		allowed: allowed,
		left:    allowed.time,
		cancel:  cancel,
		cause:   func() error { return context.Cause(ctx) },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	var response *http.Response
	body.wait(func() { response, err = client.Do(request) }) //nolint:bodyclose // the caller closes it
	if err != nil {
		err = body.explain(err)
		cancel(nil)
		return nil, err
	}
	body.ReadCloser, response.Body = response.Body, body
	return response, nil
}

func (b *patientBody) Read(p []byte) (n int, err error) {
	b.wait(func() { n, err = b.ReadCloser.Read(p) })
	if b.got += int64(n); b.got >= b.allowed.bytes {
		b.left, b.got = b.allowed.time, 0
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.explain(err)
	}
	return n, err
}

// Close ends the request, whether or not it has been read.
func (b *patientBody) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// wait does something that waits for the server, and counts the time.
func (b *patientBody) wait(do func()) {
	started := time.Now()
	timer := time.AfterFunc(b.left, func() {
		b.cancel(fmt.Errorf("the server has sent less than %d bytes in %v", b.allowed.bytes, b.allowed.time))
	})
	defer timer.Stop()
	do()
	b.left -= time.Since(started)
}

// explain replaces an error by the cause of the request's end, if it was cancelled.
func (b *patientBody) explain(err error) error {
	if cause := b.cause(); cause != nil {
		return cause
	}
	return err
}
