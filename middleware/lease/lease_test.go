package lease

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// A server is a Redis of a test's own.
type server struct {
	socket  string
	command *exec.Cmd
}

// startServer starts a Redis that is ended with the test.
func startServer(t *testing.T, arguments ...string) *server {
	t.Helper()
	s := &server{socket: filepath.Join(t.TempDir(), "redis.sock")}
	s.start(t, arguments...)
	t.Cleanup(s.kill)
	return s
}

func (s *server) start(t *testing.T, arguments ...string) {
	t.Helper()
	arguments = append([]string{
		"--port", "0", "--unixsocket", s.socket, "--save", "", "--dir", filepath.Dir(s.socket),
	}, arguments...)
	s.command = exec.Command(needs.Tool(t, "redis-server"), arguments...)
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	for exec.Command(needs.Tool(t, "redis-cli"), "-s", s.socket, "ping").Run() != nil {
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *server) kill() {
	_ = s.command.Process.Kill()
	_ = s.command.Wait()
}

func (s *server) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := s.command.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// tell has redis-cli say something to the server, and returns what it prints.
func (s *server) tell(t *testing.T, words ...string) string {
	t.Helper()
	printed, err := exec.Command("redis-cli", append([]string{"-s", s.socket}, words...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli %q: %v: %s", words, err, printed)
	}
	return strings.TrimSpace(string(printed))
}

// config is that of a registry with a server.
func config(address string) *configuration.Configuration {
	c := new(configuration.Configuration)
	c.HTTP.Secret = "secret"
	c.Storage = configuration.Storage{"filesystem": {"rootdirectory": "/srv/registry"}}
	c.Redis.Options.Addrs = []string{address}
	return c
}

// newLeases are those of one replica, with lives that are as long as they can be in tests.
func newLeases(t *testing.T, c *configuration.Configuration) *Leases {
	t.Helper()
	l, err := New(c, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

// replicas are several, with one server.
func replicas(t *testing.T, s *server, n int) []*Leases {
	t.Helper()
	all := make([]*Leases, n)
	for i := range all {
		all[i] = newLeases(t, config(s.socket))
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

func TestOneDoesTheWork(t *testing.T) {
	t.Parallel()
	all := replicas(t, startServer(t), 5)
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
	s := startServer(t)
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
	all := replicas(t, startServer(t), 2)
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
	none.Close(t.Context())
}
