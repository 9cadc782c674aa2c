package middleware

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

const (
	// latelyKept is how many of the names that were pulled last are known of a new revision before
	// anybody asks.
	latelyKept = 10
	// followPause is how often the set is looked up at the most.
	followPause = time.Second
)

// follow looks the package set up at the start and every refresh, until ctx ends. Of a new revision
// it finds out what the names pulled last stand for, so that the next pull need not; and whether
// the set can be used at all, which is the operator's to mend. A path is looked at by every pull,
// and so here once.
func (s *Service) follow(ctx context.Context) {
	var known string
	for {
		pinned, err := s.builder.Pin(ctx, source.Latest)
		if err == nil && pinned.Revision != known {
			if err = s.builder.Prepare(ctx, pinned, s.lately.Values()); err == nil {
				logrus.Infof("nix: the package set is %s at %s", pinned.Name, pinned.Revision)
			}
			known = pinned.Revision
		}
		if err != nil && ctx.Err() == nil {
			logrus.WithError(err).Error("nix: the package set can't be used")
		}
		if s.options.Packages.Path != "" && len(s.options.Packages.NixPath) == 0 {
			return
		}
		select {
		case <-time.After(max(s.options.Refresh, followPause)):
		case <-ctx.Done():
			return
		}
	}
}
