package lease

import (
	"errors"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

func TestOneDoesTheWork(t *testing.T) {
	t.Parallel()
	all := replicas(t, needs.StartRedis(t), 5)
	j := new(job)
	for _, err := range j.onAll(t, all, "k") {
		if err != nil {
			t.Error(err)
		}
	}
	if n := j.times.Load(); n != 1 {
		t.Errorf("the work was done %d times", n)
	}
}

// A failure that another try would not change is not tried by each replica. One that it may change
// is.
func TestFailuresAreShared(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	for _, test := range []struct {
		name string
		err  error
		want int32
	}{
		{"denied", status.Errorf(status.Denied, "it is unfree: %s", strings.Repeat("ä\x01", 3000)), 1},
		{"not found", status.Errorf(status.NotFound, "no such package"), 1},
		{"interrupted", status.Errorf(status.Interrupted, "killed"), 1},
		{"busy", status.Errorf(status.Busy, "later"), 3},
		{"another", errors.New("the storage is down"), 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			all := replicas(t, s, 3)
			j := &job{during: func() error { return test.err }}
			for _, err := range j.onAll(t, all, test.name) {
				if err == nil || err.Error() != test.err.Error() || status.Costly(err) != status.Costly(test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
			}
			if n := j.times.Load(); n != test.want {
				t.Errorf("it was tried %d times, want %d", n, test.want)
			}
		})
	}
}

func TestTry(t *testing.T) {
	t.Parallel()
	all := replicas(t, needs.StartRedis(t), 2)
	release, ok := all[0].Try(t.Context(), "k")
	if !ok {
		t.Fatal("the first one does not get the lease")
	}
	if _, ok := all[1].Try(t.Context(), "k"); ok {
		t.Error("the second one gets it, too")
	}
	if other, ok := all[1].Try(t.Context(), "other"); !ok {
		t.Error("another key is taken")
	} else {
		other()
	}
	release()
	all[0].releasing.Wait()
	if release, ok = all[1].Try(t.Context(), "k"); !ok {
		t.Fatal("the second one does not get what was released")
	}
	release()
}

// Without Redis, all work is done.
func TestNoLeases(t *testing.T) {
	t.Parallel()
	var none *Leases
	j := new(job)
	if err := j.on(t.Context(), none, "k"); err != nil || j.times.Load() != 1 {
		t.Errorf("error %v, done %d times", err, j.times.Load())
	}
	if err := j.on(t.Context(), none, "k"); err != nil || j.times.Load() != 1 {
		t.Errorf("error %v, done %d times, though it was done", err, j.times.Load())
	}
	if release, ok := none.Try(t.Context(), "k"); !ok {
		t.Error("there is nobody else, and it is skipped")
	} else {
		release()
	}
	none.Close()
}
