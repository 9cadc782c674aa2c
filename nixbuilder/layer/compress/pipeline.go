package compress

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// A pipeline hashes and compresses an archive, step by step, while produce makes it.
type pipeline struct {
	diffID hash.Hash // for steps alone, as parts are
	parts  *parts
	steps  chan func() error
}

// pipe writes the layer whose archive produce makes.
func (c *Compressor) pipe(
	ctx context.Context, w io.Writer, produce func(context.Context, *pipeline) error,
) (Result, error) {
	blob := &meter{w: w, hash: sha256.New()}
	p := &pipeline{diffID: sha256.New(), parts: c.begin(blob), steps: make(chan func() error, 1)}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error {
		defer close(p.steps)
		return produce(ctx, p)
	})
	all.Go(func() error {
		for step := range p.steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	err := all.Wait()
	if writeErr := p.parts.end(); writeErr != nil {
		err = fmt.Errorf("writing layer: %w", writeErr) // the reason why the archive was not finished
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Digest: blob.digest(), Size: blob.size, DiffID: digest.NewDigest(digest.SHA256, p.diffID)}, nil
}

// then queues a step. Steps are taken one after the other.
func (p *pipeline) then(ctx context.Context, step func() error) error {
	select {
	case p.steps <- step:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
