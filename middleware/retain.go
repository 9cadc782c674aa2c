package middleware

import (
	"context"
	"errors"
	"slices"

	"github.com/distribution/reference"

	"github.com/nixery-registry/nixery-registry/middleware/retention"
)

// Prune removes built images beyond limits, and records of what is not there any more, once. Dry, it
// tells what it would remove, and changes nothing. Also with an error, the result says what was
// removed.
func (s *Service) Prune(ctx context.Context, limits RetentionOptions, dry bool) (retention.Result, error) {
	var f faults
	if limits.faults(&f); len(f) > 0 {
		return retention.Result{}, errors.Join(f...)
	}
	if r := s.retention(limits.limits()); !dry {
		return r.Run(ctx, true)
	} else {
		return r.Plan(ctx)
	}
}

// Retention is what the configuration says of what stays.
func (s *Service) Retention() RetentionOptions { return s.options.Retention }

// retain has images removed that are beyond the limits of the option retention, and pulls recorded,
// until Close.
func (s *Service) retain(ctx context.Context) (err error) {
	limits := s.options.Retention.limits()
	if !limits.Any() {
		return nil
	}
	if s.pulls, err = retention.NewPulls(s.store.State(), s.store.Built); err != nil {
		return err
	}
	s.retaining.start(ctx, s.retention(limits).Serve)
	return nil
}

func (s *Service) retention(limits retention.Limits) *retention.Retention {
	return retention.New(s.store, s.namespace, retention.Options{
		Limits:    limits,
		Held:      s.holds,
		Lease:     s.leases.Try,
		Revisions: s.revisions,
	})
}

// holds tells whether a tag is one that the option prebuild wants to be there.
func (s *Service) holds(repository, tag string) bool {
	return slices.ContainsFunc(s.options.Prebuild, func(image string) bool {
		name, _, err := s.options.image(image)
		if err != nil {
			return false // the options were checked
		}
		home, _ := s.canonicalOf(reference.TrimNamed(name))
		return home.Name() == repository && name.Tag() == tag
	})
}

// revisions are those that the package set is at, as far as that can be told at once.
func (s *Service) revisions() (revisions []string) {
	for _, tag := range s.tags {
		if revision, ok := s.builder.Current(tag); ok {
			revisions = append(revisions, revision)
		}
	}
	return revisions
}

// A background is work that goes on beside pulls. The zero value is none.
type background struct {
	stop context.CancelFunc
	done chan struct{}
}

func (b *background) start(ctx context.Context, work func(context.Context)) {
	ctx, b.stop = context.WithCancel(ctx)
	b.done = make(chan struct{})
	go func() {
		defer close(b.done)
		work(ctx)
	}()
}

// end ends the work, and waits until it has, or ctx ends.
func (b *background) end(ctx context.Context) {
	if b.stop == nil {
		return
	}
	b.stop()
	select {
	case <-b.done:
	case <-ctx.Done():
	}
}
