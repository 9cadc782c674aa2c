package binarycache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// connectTime bounds the making of a connection: a cache that is down costs seconds, not minutes.
const connectTime = 5 * time.Second

// progressBytes is how much must arrive within Options.Patience.
const progressBytes = 64 << 10

var errStalled = errors.New("it sends too little for too long")

// files are the files of a cache. Names are relative URLs that checkName has accepted.
type files interface {
	// open reads a file from an offset on. The error is fs.ErrNotExist if there is no such file.
	open(ctx context.Context, name string, offset int64) (io.ReadCloser, error)
}

// checkName refuses names that lead out of the cache.
func checkName(name string) error {
	u, err := url.Parse(name)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || u.Fragment != "" || !fs.ValidPath(u.Path) ||
		u.Path == "." {
		return fmt.Errorf("%q is not the name of a file in the cache", name)
	}
	return nil
}

// A directory is a cache in the file system.
type directory string

func (d directory) open(_ context.Context, name string, offset int64) (io.ReadCloser, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, errors.New(err.Error()) // not fs.ErrNotExist, which means that the cache lacks the file
	}
	defer root.Close()
	u, err := url.Parse(name)
	if err != nil {
		return nil, err
	}
	f, err := root.Open(u.Path)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// httpFiles are those of a cache behind HTTP.
type httpFiles struct {
	client   *http.Client
	base     *url.URL
	patience time.Duration
}

func newClient(patience time.Duration) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTime}).DialContext,
		TLSHandshakeTimeout:   connectTime,
		ResponseHeaderTimeout: patience,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   lookupsAtOnce,
		MaxConnsPerHost:       2 * lookupsAtOnce, // however many closures are looked up at a time
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // archives are compressed, and have a hash as they are
	}}
}

// maxSkip bounds the bytes that are read once more from a server that can't go on at an offset.
const maxSkip = 1 << 30

func (h httpFiles) open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	ref, err := url.Parse(name)
	if err != nil {
		return nil, err
	}
	u := h.base.JoinPath(ref.EscapedPath())
	u.RawQuery = ref.RawQuery
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, errors.New("the URL can't be asked for") // not err, which shows credentials
	}
	request.Header.Set("User-Agent", "nixery-registry")
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := h.client.Do(request) //nolint:bodyclose // body closes it
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body := &watched{
		body:     response.Body,
		cancel:   cancel,
		cause:    func() error { return context.Cause(ctx) },
		patience: h.patience,
	}
	if err := begin(response, body, offset); err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return body, nil
}

// begin checks that an answer is the file, and skips what comes before the offset.
func begin(response *http.Response, body io.Reader, offset int64) error {
	switch response.StatusCode {
	case http.StatusOK:
		if offset > maxSkip {
			return errors.New("it can't go on where the download was cut off")
		}
		_, err := io.CopyN(io.Discard, body, offset)
		return err
	case http.StatusPartialContent:
		if !strings.HasPrefix(response.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return errors.New("it goes on elsewhere than it was asked to")
		}
		return nil
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden:
		// Object stores that don't list their content forbid what is not there.
		return fmt.Errorf("it answers %s: %w", response.Status, fs.ErrNotExist)
	}
	return fmt.Errorf("it answers %s", response.Status)
}

// watched is the body of an answer. Reading it fails if too little arrives for too long. The time
// between reads does not count.
type watched struct {
	body     io.ReadCloser
	cancel   context.CancelCauseFunc
	cause    func() error // why it was cancelled
	patience time.Duration
	arrived  int
	waited   time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	timer := time.AfterFunc(w.patience-w.waited, func() { w.cancel(errStalled) })
	started := time.Now()
	n, err := w.body.Read(p)
	timer.Stop()
	w.waited += time.Since(started)
	if w.arrived += n; w.arrived >= progressBytes {
		w.arrived, w.waited = 0, 0
	}
	if err != nil && errors.Is(w.cause(), errStalled) {
		err = errStalled
	}
	return n, err
}

func (w *watched) Close() error {
	err := w.body.Close()
	w.cancel(nil)
	return err
}
