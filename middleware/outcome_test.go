package middleware

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

func TestOutcomes(t *testing.T) {
	failed := status.Errorf(status.Denied, "building web failed")
	failed.Failed = true
	there := answer{Image: imagestore.Image{Digest: "sha256:1"}}
	for _, test := range []struct {
		name      string
		redirects int
		got       answer
		err       error
		pull      string
		build     string // of the error
	}{
		{name: "stored", got: there, pull: metrics.PullStored, build: metrics.BuildBuilt},
		{
			name: "built", got: answer{Image: there.Image, waited: true},
			pull: metrics.PullBuilt, build: metrics.BuildBuilt,
		},
		{name: "waited", got: there, redirects: 3, pull: metrics.PullWaited, build: metrics.BuildBuilt},
		{
			name: "stale", got: answer{Image: there.Image, stale: true},
			pull: metrics.PullStale, build: metrics.BuildBuilt,
		},
		{name: "pushed", got: answer{Image: imagestore.Image{Digest: "sha256:1", Pushed: true}}, build: metrics.BuildBuilt},
		{name: "not of packages", build: metrics.BuildBuilt},
		{
			name: "unknown", err: status.Errorf(status.NotFound, "no"),
			pull: metrics.PullUnknown, build: metrics.BuildUnknown,
		},
		{name: "refused", err: status.Errorf(status.Denied, "no"), pull: metrics.PullRefused, build: metrics.BuildRefused},
		{name: "failed", err: fmt.Errorf("x: %w", failed), pull: metrics.PullFailed, build: metrics.BuildFailed},
		{name: "busy", err: status.Errorf(status.Busy, "no"), pull: metrics.PullBusy, build: metrics.BuildUnavailable},
		{
			name: "interrupted", err: status.Errorf(status.Interrupted, "no"),
			pull: metrics.PullUnavailable, build: metrics.BuildUnavailable,
		},
		{name: "broken", err: errors.New("no disk"), pull: metrics.PullUnavailable, build: metrics.BuildUnavailable},
		{name: "login", err: needsLogin{}, pull: metrics.PullRefused, build: metrics.BuildUnavailable},
		{name: "read-only", err: errReadOnly, pull: metrics.PullUnknown, build: metrics.BuildUnavailable},
		{name: "too long", err: errHold, pull: metrics.PullUnavailable, build: metrics.BuildUnavailable},
		{name: "left", err: fmt.Errorf("x: %w", context.Canceled), build: metrics.BuildEnded},
	} {
		if got := pullResult(pull{redirects: test.redirects}, test.got, test.err); got != test.pull {
			t.Errorf("%s: a pull is %q, want %q", test.name, got, test.pull)
		}
		if got := buildOutcome(test.err); got != test.build {
			t.Errorf("%s: a build is %q, want %q", test.name, got, test.build)
		}
	}
}

// A pull is counted once it has ended.
func TestPullsAreCounted(t *testing.T) {
	p := newPulling(t)
	before := metrics.Pulls.Total(metrics.PullStored)
	p.countPull(pull{}, answer{Image: imagestore.Image{Digest: "sha256:1"}}, nil, time.Millisecond)
	if n := metrics.Pulls.Total(metrics.PullStored) - before; n != 1 {
		t.Errorf("it is counted %v times", n)
	}
}

// Every kind of error has a name in metrics.
func TestKindsHaveOutcomes(t *testing.T) {
	for kind := status.NotFound; kind <= status.Damaged; kind++ {
		if pullResults[kind] == "" || buildOutcomes[kind] == "" {
			t.Errorf("kind %d has none", kind)
		}
	}
}
