package middleware

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

const (
	// recentNamesKept is how many names are evaluated for a new revision before anybody asks: those
	// that were pulled last.
	recentNamesKept = 10
	// followPause is the shortest time between two look-ups of the set.
	followPause = time.Second
)

// follow looks the package set up at the start and every refresh, until ctx ends. For a new
// revision it evaluates the names that were pulled last, so that the next pull need not. If the set
// can't be used at all, it tells the operator in the log. Every pull looks at a path, so follow
// does it once.
func (s *Service) follow(ctx context.Context) {
	var known string
	for {
		pinned, err := s.builder.Pin(ctx, source.Latest)
		if err == nil && pinned.Stale == nil {
			metrics.LookedUp.SetToCurrentTime()
		}
		if err == nil && pinned.Revision != known {
			metrics.Revised.SetToCurrentTime()
			if err = s.prepare(ctx, pinned); err == nil {
				logrus.Infof("nix: the package set is %s at %s", pinned.Name, pinned.Revision)
			}
			known = pinned.Revision
			metrics.Usable.Set(map[bool]float64{true: 1}[err == nil])
		}
		if ctx.Err() == nil {
			s.packagesHealth.found(err)
		}
		if err != nil && ctx.Err() == nil {
			logrus.WithError(err).Error("nix: the package set can't be used")
		}
		if s.options.Packages.isPathAlone() {
			return
		}
		select {
		case <-time.After(max(s.options.Refresh, followPause)):
		case <-s.lookUp:
		case <-ctx.Done():
			return
		}
	}
}

// prepare evaluates the names that were pulled last for a revision. Replicas take turns, so that
// each finds what those before it have found out.
func (s *Service) prepare(ctx context.Context, pinned source.Pinned) error {
	never := func(context.Context) (bool, error) { return false, nil }
	return s.leases.Do(ctx, "evaluating "+pinned.Revision, never, func(ctx context.Context) error {
		return s.builder.Prepare(ctx, pinned, s.recentNames.Values())
	})
}
