package collection

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// Statters are put around upstream's caches of descriptors, which would say of a blob that was
// collected that it is there. They are a distribution.BlobDescriptorServiceFactory. Upstream has one
// for all registries of a process, so they ask all Gates. They are safe for concurrent use, and the
// zero value has no Gate.
type Statters struct {
	mu    sync.Mutex
	gates atomic.Pointer[[]*Gate]
}

// Add has a Gate asked, until remove is called.
func (s *Statters) Add(gate *Gate) (remove func()) {
	s.change(func(all []*Gate) []*Gate { return append(all, gate) })
	return func() {
		s.change(func(all []*Gate) []*Gate {
			return slices.DeleteFunc(all, func(other *Gate) bool { return other == gate })
		})
	}
}

func (s *Statters) change(change func([]*Gate) []*Gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := change(slices.Clone(s.all()))
	s.gates.Store(&all)
}

func (s *Statters) all() []*Gate {
	if all := s.gates.Load(); all != nil {
		return *all
	}
	return nil
}

// BlobAccessController implements distribution.BlobDescriptorServiceFactory.
func (s *Statters) BlobAccessController(
	known distribution.BlobDescriptorService,
) distribution.BlobDescriptorService {
	return statter{known, s}
}

type statter struct {
	distribution.BlobDescriptorService
	of *Statters
}

// Stat spares what it is asked for, as long as that is not late. Then it asks the storage.
func (s statter) Stat(ctx context.Context, dgst digest.Digest) (v1.Descriptor, error) {
	if forgets(ctx) {
		_ = s.Clear(ctx, dgst) // it fails where there is nothing to forget
		return v1.Descriptor{}, distribution.ErrBlobUnknown
	}
	var doubtful *Gate
	for _, gate := range s.of.all() {
		doubts, err := gate.doubts(ctx, dgst)
		if err != nil {
			return v1.Descriptor{}, err
		}
		if doubts {
			doubtful = gate
		}
	}
	if doubtful == nil {
		return s.BlobDescriptorService.Stat(ctx, dgst)
	}
	_ = s.Clear(withForgetting(ctx), dgst)
	defer func() { _ = s.Clear(withForgetting(ctx), dgst) }() // it may be deleted right now
	desc, err := s.BlobDescriptorService.Stat(ctx, dgst)
	if err != nil {
		return desc, err
	}
	// Upstream caches descriptors also for all repositories together, and clears none of these.
	if _, err := doubtful.StorageDriver.Stat(ctx, paths.BlobData(desc.Digest)); isGone(err) {
		return v1.Descriptor{}, distribution.ErrBlobUnknown
	} else if err != nil {
		return v1.Descriptor{}, err
	}
	return desc, nil
}

// doubts tells whether a blob may be deleted that a cache knows.
func (g *Gate) doubts(ctx context.Context, dgst digest.Digest) (bool, error) {
	s := g.view.seen.Load()
	switch {
	case s == nil:
		return false, nil
	case s.distrust || s.suspects.has(dgst):
		return true, nil
	case len(s.live) == 0:
		return false, nil
	}
	return g.view.touch(ctx, s, dgst)
}

// forgetKey is the key of a context in which Clear clears a cache and nothing else.
type forgetKey struct{}

func withForgetting(ctx context.Context) context.Context {
	return context.WithValue(ctx, forgetKey{}, true)
}

func forgets(ctx context.Context) bool { return ctx.Value(forgetKey{}) != nil }
