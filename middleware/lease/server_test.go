package lease

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// config is that of a registry with a server.
func config(address string) *configuration.Configuration {
	c := new(configuration.Configuration)
	c.HTTP.Secret = "secret"
	c.Storage = configuration.Storage{"filesystem": {"rootdirectory": "/srv/registry"}}
	c.Redis.Options.Addrs = []string{address}
	return c
}

// newLeases are those of one replica. It is patient, as the machine may be busy.
func newLeases(t *testing.T, c *configuration.Configuration) *Leases {
	t.Helper()
	l, err := New(c, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l.times.patience = time.Minute
	t.Cleanup(l.Close)
	return l
}

// replicas are several, with one server.
func replicas(t *testing.T, s *needs.Redis, n int) []*Leases {
	t.Helper()
	all := make([]*Leases, n)
	for i := range all {
		all[i] = newLeases(t, config(s.Socket))
	}
	return all
}

// A job is work that is done once, by whatever replica.
type job struct {
	done   atomic.Bool
	times  atomic.Int32
	during func() error // of the work
}

func (j *job) on(ctx context.Context, l *Leases, key string) error {
	return l.Do(ctx, key, func(context.Context) (bool, error) { return j.done.Load(), nil },
		func(context.Context) error {
			j.times.Add(1)
			if j.during != nil {
				if err := j.during(); err != nil {
					return err
				}
			}
			j.done.Store(true)
			return nil
		})
}

// onAll has all replicas do it at a time, and returns their errors.
func (j *job) onAll(t *testing.T, all []*Leases, key string) []error {
	t.Helper()
	faults := make([]error, len(all))
	var doing sync.WaitGroup
	for i, l := range all {
		doing.Go(func() { faults[i] = j.on(t.Context(), l, key) })
	}
	doing.Wait()
	return faults
}

// awaitWaiting waits until a replica waits for another one.
func awaitWaiting(t *testing.T, l *Leases) {
	t.Helper()
	waits := func() bool {
		l.ends.mu.Lock()
		defer l.ends.mu.Unlock()
		return len(l.ends.waiting) > 0
	}
	for !waits() {
		time.Sleep(time.Millisecond)
	}
}
