package middleware

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/middleware/lease"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// newReplicas are several that share a storage and a Redis.
func newReplicas(t *testing.T, n int) []*pulling {
	t.Helper()
	redis := needs.StartRedis(t)
	all := make([]*pulling, n)
	for i := range all {
		config := &configuration.Configuration{Storage: configuration.Storage{"filesystem": {}}}
		config.HTTP.Secret = "secret"
		config.Redis.Options.Addrs = []string{redis.Socket}
		leases, err := lease.New(config, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(leases.Close)
		all[i] = newPulling(t)
		all[i].leases = leases
		all[i].store, all[i].namespace, all[i].repo = all[0].store, all[0].namespace, all[0].repo
	}
	return all
}

// A meeting counts who does some work at a time.
type meeting struct {
	inside, most atomic.Int32
}

func (m *meeting) during() {
	if n := m.inside.Add(1); n > m.most.Load() {
		m.most.Store(n)
	}
	time.Sleep(10 * time.Millisecond) // the others come in if they may
	m.inside.Add(-1)
}

func TestReplicasBuildOnce(t *testing.T) {
	t.Parallel()
	all := newReplicas(t, 3)
	var pulls sync.WaitGroup
	for _, p := range all {
		p.builder.during = new(meeting).during
		pulls.Go(func() { p.want(t, "latest", "r1", false) })
	}
	pulls.Wait()
	built := 0
	for _, p := range all {
		built += len(p.builder.built)
	}
	if built != 1 {
		t.Errorf("it was built %d times", built)
	}
}

// A replica that has waited for one that could not build says why, without building. It remembers
// that as its own failures.
func TestReplicasFailOnce(t *testing.T) {
	t.Parallel()
	all := newReplicas(t, 3)
	var pulls sync.WaitGroup
	for _, p := range all {
		p.builder.during = new(meeting).during
		p.builder.buildErr = status.Errorf(status.Denied, "it fails to build")
		pulls.Go(func() {
			for range 2 {
				if _, err := p.pull(t, "latest"); err == nil || err.Error() != "it fails to build" {
					t.Errorf("error %v", err)
				}
			}
		})
	}
	pulls.Wait()
	built := 0
	for _, p := range all {
		built += len(p.builder.built)
	}
	if built != 1 {
		t.Errorf("it was built %d times", built)
	}
}

// A preparing builder is a fakeBuilder that prepares.
type preparing struct {
	*fakeBuilder
	prepare func()
}

func (b preparing) Prepare(context.Context, source.Pinned, []names.Request) error {
	b.prepare()
	return nil
}

// Replicas prepare for a revision one after the other.
func TestReplicasPrepareInTurn(t *testing.T) {
	t.Parallel()
	all := newReplicas(t, 3)
	var together meeting
	var turns atomic.Int32
	var preparations sync.WaitGroup
	for _, p := range all {
		p.Service.builder = preparing{p.builder, func() { turns.Add(1); together.during() }}
		preparations.Go(func() {
			if err := p.prepare(t.Context(), source.Pinned{Revision: "r1"}); err != nil {
				t.Error(err)
			}
		})
	}
	preparations.Wait()
	if turns.Load() != 3 || together.most.Load() != 1 {
		t.Errorf("%d replicas have prepared, %d of them at a time", turns.Load(), together.most.Load())
	}
}
