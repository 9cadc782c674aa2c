package collection

import (
	"context"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// ErrPaused refuses a write while blobs are collected, and what was begun before that. It is an
// error of the registry's: upstream answers with it.
var ErrPaused = errcode.ErrorCodeUnavailable.WithMessage(
	"blobs are being collected, and nothing can be stored for some minutes: try again then")

// A Gate is the storage of one registry. It refuses writes while a run sweeps, and spares candidates
// that are touched. Whatever the registry stores goes through it. It is safe for concurrent use.
type Gate struct {
	driver.StorageDriver
	view *view
}

// NewGate puts a Gate around the storage of a registry.
func NewGate(storage driver.StorageDriver) *Gate {
	return &Gate{storage, &view{storage: storage, now: time.Now}}
}

// Watch looks for runs every watchEvery, until ctx ends, so that reads know of candidates, too.
// Without it, the Gate looks when something is written and its last look is older than sightAge.
func (g *Gate) Watch(ctx context.Context) {
	failing := false
	for {
		_, err := g.view.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			logrus.WithError(err).Warn("nix: it can't be read whether blobs are being collected: " +
				"pushes and builds are refused until it can")
		}
		failing = err != nil
		select {
		case <-time.After(watchEvery):
		case <-ctx.Done():
			return
		}
	}
}

// begunKey is the key of the time when a piece of work was begun.
type begunKey struct{}

// Begin begins a piece of work that finds blobs and refers to them later. What it writes with the
// context that is returned fails if blobs were collected since. The error is ErrPaused if they are
// being collected now, or if that can't be read.
func (g *Gate) Begin(ctx context.Context) (context.Context, error) {
	s, err := g.view.current(ctx)
	if err != nil {
		return nil, g.refuse(ctx, fmt.Errorf("%w: %w", ErrPaused, err))
	}
	begun := g.view.now()
	if err := s.permits(begun); err != nil {
		return nil, g.refuse(ctx, err)
	}
	return context.WithValue(ctx, begunKey{}, begun), nil
}

// begun is when the work of ctx was begun: as Begin said, or the request that it is part of, or now.
func (g *Gate) begun(ctx context.Context) time.Time {
	if begun, ok := ctx.Value(begunKey{}).(time.Time); ok {
		return begun
	}
	if begun, ok := ctx.Value("http.request.startedat").(time.Time); ok {
		return begun
	}
	return g.view.now()
}

// inUseKey is the key of a context for writes of links that are pending.
type inUseKey struct{}

// InUse is for links to blobs that a record of pending links names. A run does not collect those, so
// that they may be linked at any time.
func InUse(ctx context.Context) context.Context { return context.WithValue(ctx, inUseKey{}, true) }

// refusedKey is the key of a flag.
type refusedKey struct{}

// WithRefusal has the flag tell whether a Gate has refused something.
func WithRefusal(ctx context.Context, refused *atomic.Bool) context.Context {
	return context.WithValue(ctx, refusedKey{}, refused)
}

func (g *Gate) refuse(ctx context.Context, err error) error {
	if refused, ok := ctx.Value(refusedKey{}).(*atomic.Bool); ok {
		refused.Store(true)
	}
	return err
}

// PutContent implements driver.StorageDriver.
func (g *Gate) PutContent(ctx context.Context, name string, content []byte) error {
	return g.write(ctx, name, content, func() error { return g.StorageDriver.PutContent(ctx, name, content) })
}

// Move implements driver.StorageDriver.
func (g *Gate) Move(ctx context.Context, from, to string) error {
	return g.write(ctx, to, nil, func() error { return g.StorageDriver.Move(ctx, from, to) })
}

// Stat implements driver.StorageDriver. Who asks for a blob may be about to refer to it.
func (g *Gate) Stat(ctx context.Context, name string) (driver.FileInfo, error) {
	if s := g.view.seen.Load(); s != nil && len(s.live) > 0 {
		if kind, dgst := paths.Parse(name); kind == paths.BlobFile {
			if _, err := g.view.touch(ctx, s, dgst); err != nil {
				return nil, err
			}
		}
	}
	return g.StorageDriver.Stat(ctx, name)
}

// Delete implements driver.StorageDriver. Nothing is deleted to forget something.
func (g *Gate) Delete(ctx context.Context, name string) error {
	if forgets(ctx) {
		return nil
	}
	return g.StorageDriver.Delete(ctx, name)
}

// write writes a file that refers to something, if a sight permits it that is not too old. If it is
// too old when the file is written, a new one has to permit it, too: as long as the caller was not
// told that something is stored, it need not be there.
func (g *Gate) write(ctx context.Context, name string, content []byte, do func() error) error {
	kind, dgst := paths.Parse(name)
	if kind == paths.Other || ctx.Value(inUseKey{}) != nil {
		return do()
	}
	begun := g.begun(ctx)
	for done := false; ; done = true {
		s, err := g.view.current(ctx)
		if err != nil {
			return g.refuse(ctx, fmt.Errorf("%w: %w", ErrPaused, err))
		}
		if err := s.permits(begun); err != nil {
			return g.refuse(ctx, err)
		}
		if err := g.touchAll(ctx, s, kind, dgst, content); err != nil {
			return err
		}
		if !done {
			if err := do(); err != nil {
				return err
			}
		}
		if atLeast(s.readAt, g.view.now()) <= stepAge {
			return nil
		}
	}
}

// named matches what can be condemned.
var named = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// touchAll spares what a file refers to. Upstream does not look at the layers of each manifest, and
// may know them from a cache.
func (g *Gate) touchAll(ctx context.Context, s *sight, kind paths.Kind, dgst digest.Digest, content []byte) error {
	if len(s.live) == 0 {
		return nil
	}
	all := []digest.Digest{dgst}
	switch kind {
	case paths.RevisionLink:
		manifest, err := g.GetContent(ctx, paths.BlobData(dgst))
		if err != nil {
			return fmt.Errorf("reading manifest %s: %w", dgst, err)
		}
		all = append(all, namedIn(manifest)...)
	case paths.TagLink, paths.PendingLinks:
		all = namedIn(content)
	}
	for _, one := range all {
		if _, err := g.view.touch(ctx, s, one); err != nil {
			return err
		}
	}
	return nil
}

// namedIn has all digests in a text.
func namedIn(text []byte) []digest.Digest {
	found := named.FindAll(text, -1)
	all := make([]digest.Digest, len(found))
	for i, one := range found {
		all[i] = digest.Digest(one)
	}
	return all
}

// Leaving tells whether a manifest is about to be deleted, so that nobody should begin to pull it.
func (g *Gate) Leaving(ctx context.Context, manifest digest.Digest) (bool, error) {
	s := g.view.seen.Load()
	if s == nil {
		return false, nil
	}
	for _, run := range s.live {
		if run.phase != sweeping || !run.has.has(manifest) {
			continue
		}
		_, err := g.StorageDriver.Stat(ctx, sparedFile(run.name, manifest))
		if !isGone(err) {
			return false, err
		}
		return true, nil
	}
	return false, nil
}
