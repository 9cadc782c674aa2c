package middleware

import (
	"context"
	"errors"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// countPull counts a pull that has ended. One whose client is sent round has not.
func (s *Service) countPull(p pull, got answer, err error, took time.Duration) {
	result := pullResult(p, got, err)
	if result == "" {
		return
	}
	metrics.Pulls.Inc(result)
	if got.waited || p.redirects > 0 {
		metrics.Waited(time.Duration(p.redirects)*s.options.Build.Hold + took)
	}
}

var pullResults = map[status.Kind]string{
	status.NotFound: metrics.PullUnknown, status.Denied: metrics.PullRefused, status.Damaged: metrics.PullRefused,
	status.Busy: metrics.PullBusy, status.Unavailable: metrics.PullUnavailable,
	status.Interrupted: metrics.PullUnavailable,
}

// pullResult is what metrics call the end of a pull. It is empty for pulls that are not of packages,
// and for those that nobody waits for any more.
func pullResult(p pull, got answer, err error) string {
	switch asked := (*status.Error)(nil); {
	case errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, &asked) && asked.Failed:
		return metrics.PullFailed
	case errors.As(err, &asked):
		return pullResults[asked.Kind]
	case errors.As(err, new(needsLogin)):
		return metrics.PullRefused
	case errors.Is(err, errReadOnly):
		return metrics.PullUnknown
	case err != nil:
		return metrics.PullUnavailable
	case got.Digest == "" || got.Pushed:
		return ""
	case got.stale:
		return metrics.PullStale
	case p.redirects > 0:
		return metrics.PullWaited
	case got.waited:
		return metrics.PullBuilt
	}
	return metrics.PullStored
}

var buildOutcomes = map[status.Kind]string{
	status.NotFound: metrics.BuildUnknown, status.Denied: metrics.BuildRefused, status.Damaged: metrics.BuildRefused,
	status.Busy: metrics.BuildUnavailable, status.Unavailable: metrics.BuildUnavailable,
	status.Interrupted: metrics.BuildUnavailable,
}

// buildOutcome is what metrics call the end of a build.
func buildOutcome(err error) string {
	switch asked := (*status.Error)(nil); {
	case err == nil:
		return metrics.BuildBuilt
	case errors.As(err, &asked) && asked.Failed:
		return metrics.BuildFailed
	case errors.As(err, &asked):
		return buildOutcomes[asked.Kind]
	case errors.Is(err, context.Canceled):
		return metrics.BuildEnded
	}
	return metrics.BuildUnavailable
}
