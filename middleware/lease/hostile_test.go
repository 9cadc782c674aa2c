package lease

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// Whoever can write to Redis gets no replica to wait for longer than it would wait for another one,
// and none to believe a failure.
func TestForged(t *testing.T) {
	denied := note{At: time.Now(), Kind: int(status.Denied), Message: "no"}
	for _, test := range []struct {
		name  string
		write func(t *testing.T, s *needs.Redis, l *Leases) (name, value string)
	}{
		{"a lease of nobody", func(_ *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			return l.seal.name("lease", "k"), "x"
		}},
		{"an empty lease", func(_ *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			return l.seal.name("lease", "k"), ""
		}},
		{"a very long lease", func(_ *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			return l.seal.name("lease", "k"), strings.Repeat("x", 1_000_000)
		}},
		{"another key's lease", func(t *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			return l.seal.name("lease", "k"), sealed(t, l, l.seal.name("lease", "other"), note{At: time.Now()})
		}},
		{"another registry's lease", func(t *testing.T, s *needs.Redis, l *Leases) (name, value string) {
			c := config(s.Socket)
			c.HTTP.Secret = "another"
			name = l.seal.name("lease", "k")
			return name, sealed(t, newLeases(t, c), name, note{At: time.Now()})
		}},
		{"an old lease", func(t *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			name = l.seal.name("lease", "k")
			return name, sealed(t, l, name, note{At: time.Now().Add(-2 * time.Hour)})
		}},
		{"a failure of nobody", func(_ *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			return l.seal.name("failure", "k"), `{"kind":1,"message":"no"}`
		}},
		{"another key's failure", func(t *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			return l.seal.name("failure", "k"), sealed(t, l, l.seal.name("failure", "other"), denied)
		}},
		{"a lease in the place of a failure", func(t *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			return l.seal.name("failure", "k"), sealed(t, l, l.seal.name("lease", "k"), note{At: time.Now()})
		}},
		{"an old failure", func(t *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			name = l.seal.name("failure", "k")
			return name, sealed(t, l, name, note{At: time.Now().Add(-time.Hour), Kind: 1, Message: "no"})
		}},
		{"a failure of tomorrow", func(t *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			name = l.seal.name("failure", "k")
			return name, sealed(t, l, name, note{At: time.Now().Add(24 * time.Hour), Kind: 1, Message: "no"})
		}},
		{"a failure of a kind that passes", func(t *testing.T, _ *needs.Redis, l *Leases) (name, value string) {
			name = l.seal.name("failure", "k")
			return name, sealed(t, l, name, note{At: time.Now(), Kind: int(status.Busy), Message: "no"})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := needs.StartRedis(t)
			l := newLeases(t, config(s.Socket))
			name, value := test.write(t, s, l)
			set(t, l, name, value)
			j := new(job)
			if err := j.on(t.Context(), l, "k"); err != nil || j.times.Load() != 1 {
				t.Errorf("error %v, done %d times", err, j.times.Load())
			}
		})
	}
}

func sealed(t *testing.T, l *Leases, name string, n note) string {
	t.Helper()
	value, err := l.seal.write(name, n)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// set sets a key, for good.
func set(t *testing.T, l *Leases, name, value string) {
	t.Helper()
	if err := l.client.Set(t.Context(), name, value, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

// The failure of another replica is believed, and only under its key.
func TestNoteOfFailure(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	l := newLeases(t, config(s.Socket))
	name := l.seal.name("failure", "k")
	set(t, l, name, sealed(t, l, name, note{At: time.Now(), Kind: int(status.Denied), Message: "no"}))
	j := new(job)
	if err := j.on(t.Context(), l, "k"); err == nil || err.Error() != "no" || j.times.Load() != 0 {
		t.Errorf("error %v, done %d times", err, j.times.Load())
	}
	if err := j.on(t.Context(), l, "other"); err != nil || j.times.Load() != 1 {
		t.Errorf("error %v, done %d times", err, j.times.Load())
	}
}

// Redis says that the lease is taken, and that nobody has it, again and again: nobody waits for that.
func TestTakenByNobody(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	l := newLeases(t, config(s.Socket))
	set(t, l, l.seal.name("lease", "k"), "")
	j := new(job)
	for range 3 {
		j.done.Store(false)
		if err := j.on(context.Background(), l, "k"); err != nil {
			t.Error(err)
		}
	}
	if n := j.times.Load(); n != 3 {
		t.Errorf("the work was done %d times, want 3", n)
	}
	if !l.health.away {
		t.Error("that is no fault of Redis")
	}
}

// Nothing that is kept in Redis tells what is built, and nothing stays.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	l := newLeases(t, config(s.Socket))
	work := func(context.Context) error { return status.Errorf(status.Denied, "the log of a build") }
	never := func(context.Context) (bool, error) { return false, nil }
	if err := l.Do(t.Context(), "building private/image:latest@r1", never, work); err == nil {
		t.Error("the work has not failed")
	}
	l.releasing.Wait()
	if keys := strings.Fields(s.Tell(t, "keys", "*")); len(keys) != 1 || !strings.HasPrefix(keys[0], prefix+"failure:") {
		t.Fatalf("the keys are %q", keys)
	}
	name := l.seal.name("failure", "building private/image:latest@r1")
	if ttl := s.Tell(t, "ttl", name); len(ttl) > 2 || strings.HasPrefix(ttl, "-") {
		t.Errorf("the failure stays for %s s", ttl)
	}
	if value := s.Tell(t, "get", name); strings.Contains(value, "log") || strings.Contains(value, "private") {
		t.Errorf("it can be read: %q", value)
	}
}

// Whoever says again and again that a lease has ended has no replica ask its storage again and again.
func TestFlood(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	all := replicas(t, s, 2)
	all[1].times.poll = time.Hour
	release, ok := all[0].Try(t.Context(), "k")
	if !ok {
		t.Fatal("the lease is taken")
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	ended := make(chan error)
	go func() {
		ended <- all[1].Do(ctx, "k", func(context.Context) (bool, error) { asked.Add(1); return false, nil }, nil)
	}()
	awaitWaiting(t, all[1])
	for asked.Load() == 0 {
		all[1].ends.tell(all[1].seal.name("lease", "k"))
	}
	for range 100_000 {
		all[1].ends.tell(all[1].seal.name("lease", "k"))
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the work was done")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the storage was asked %d times", n)
	}
}
