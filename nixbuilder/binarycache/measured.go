package binarycache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
)

// measured are files whose requests are counted.
type measured struct {
	files
	cache *metrics.Cache
}

func (m measured) open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	begun := time.Now()
	body, err := m.files.open(ctx, name, offset)
	outcome := metrics.CacheFound
	switch {
	case errors.Is(err, fs.ErrNotExist):
		outcome = metrics.CacheMissing
	case err != nil && ctx.Err() != nil:
		return nil, err // nobody waits for it any more
	case err != nil:
		outcome = metrics.CacheFailed
	}
	m.cache.Answered(outcome, time.Since(begun))
	if err != nil {
		return nil, err
	}
	return countedBody{body, m.cache}, nil
}

type countedBody struct {
	io.ReadCloser
	cache *metrics.Cache
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.cache.Received(n)
	return n, err
}
