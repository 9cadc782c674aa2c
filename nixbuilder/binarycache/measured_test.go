package binarycache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
)

// fakeFiles have one file, and fail as they are told for others.
type fakeFiles map[string]error

func (f fakeFiles) open(_ context.Context, name string, _ int64) (io.ReadCloser, error) {
	if err := f[name]; err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader("12345")), nil
}

func TestMeasured(t *testing.T) {
	cache := metrics.CacheOf("measured.example.org")
	m := measured{fakeFiles{"missing": fs.ErrNotExist, "broken": errors.New("500")}, cache}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ask := range []struct {
		ctx  context.Context
		name string
	}{{t.Context(), "there"}, {t.Context(), "missing"}, {t.Context(), "broken"}, {over, "broken"}} {
		body, err := m.open(ask.ctx, ask.name, 0)
		if err != nil {
			continue
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Fatal(err)
		}
	}
	for _, outcome := range []string{metrics.CacheFound, metrics.CacheMissing, metrics.CacheFailed} {
		if n := cache.Requests(outcome); n != 1 {
			t.Errorf("%s: %v requests, want 1", outcome, n)
		}
	}
	if n := cache.Bytes(); n != 5 {
		t.Errorf("%v bytes, want 5", n)
	}
}
