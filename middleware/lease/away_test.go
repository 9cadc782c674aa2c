package lease

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// said counts the lines of the log that have a text.
func said(hook *logtest.Hook, text string) (n int) {
	for _, line := range hook.AllEntries() {
		if strings.Contains(line.Message, text) {
			n++
		}
	}
	return n
}

const (
	saidAway = "Redis can't be used"
	saidBack = "Redis can be used again"
)

// hears replaces the log of the process for a test, which is not parallel to others.
func hears(t *testing.T) *logtest.Hook {
	t.Helper()
	hook := logtest.NewGlobal()
	output := logrus.StandardLogger().Out
	logrus.SetOutput(io.Discard)
	t.Cleanup(func() {
		logrus.SetOutput(output)
		logrus.StandardLogger().ReplaceHooks(make(logrus.LevelHooks))
	})
	return hook
}

// While Redis is away, in whatever way, each replica does the work, and says so once. Then they take
// turns again, and say so once.
func TestAway(t *testing.T) {
	for _, test := range []struct {
		name       string
		away, back func(*testing.T, *needs.Redis)
	}{
		{
			"killed",
			func(t *testing.T, s *needs.Redis) { s.Signal(t, syscall.SIGKILL) },
			func(t *testing.T, s *needs.Redis) { s.Start(t) },
		},
		{
			"stopped",
			func(t *testing.T, s *needs.Redis) { s.Signal(t, syscall.SIGSTOP) },
			func(t *testing.T, s *needs.Redis) { s.Signal(t, syscall.SIGCONT) },
		},
		{
			"full",
			func(t *testing.T, s *needs.Redis) { s.Tell(t, "config", "set", "maxmemory", "1") },
			func(t *testing.T, s *needs.Redis) { s.Tell(t, "config", "set", "maxmemory", "0") },
		},
		{
			"read-only",
			func(t *testing.T, s *needs.Redis) { s.Tell(t, "replicaof", "127.0.0.1", "1") },
			func(t *testing.T, s *needs.Redis) { s.Tell(t, "replicaof", "no", "one") },
		},
		{
			"another password",
			func(t *testing.T, s *needs.Redis) {
				s.Tell(t, "config", "set", "requirepass", "secret")
				s.Tell(t, "-a", "secret", "client", "kill", "type", "normal")
			},
			func(t *testing.T, s *needs.Redis) { s.Tell(t, "-a", "secret", "config", "set", "requirepass", "") },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			hook := hears(t)
			s := needs.StartRedis(t)
			all := replicas(t, s, 2)
			for _, l := range all {
				l.times.pause = time.Hour
				l.times.life = 3 * time.Second // of a lease that Redis gives when it goes on, and nobody has
				if err := new(job).on(t.Context(), l, "before"); err != nil {
					t.Error(err)
				}
				l.releasing.Wait()
			}
			if n := said(hook, saidAway); n != 0 {
				t.Fatalf("%d times it was said to be away, and was not", n)
			}
			test.away(t, s)
			for i, l := range all {
				l.times.patience = 200 * time.Millisecond
				for range 3 {
					j := new(job)
					if err := j.on(t.Context(), l, "k"); err != nil || j.times.Load() != 1 {
						t.Errorf("error %v, done %d times", err, j.times.Load())
					}
					l.releasing.Wait()
				}
				if n := said(hook, saidAway); n != i+1 {
					t.Errorf("%d replicas have said it %d times", i+1, n)
				}
			}
			test.back(t, s)
			for _, l := range all {
				l.times.patience = time.Minute
				l.health.again = time.Time{} // the pause is over
			}
			j := new(job)
			for _, err := range j.onAll(t, all, "k") {
				if err != nil {
					t.Error(err)
				}
			}
			if n := j.times.Load(); n != 1 {
				t.Errorf("the work was done %d times", n)
			}
			if away, back := said(hook, saidAway), said(hook, saidBack); away != 2 || back != 2 {
				t.Errorf("2 replicas have said %d times that it is away, and %d times that it is back", away, back)
			}
		})
	}
}

// A Redis that accepts and says nothing, of whatever kind, is asked once in each pause.
func TestSilent(t *testing.T) {
	for _, kind := range []string{"server", "cluster", "sentinel"} {
		t.Run(kind, func(t *testing.T) {
			hook := hears(t)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			c := config(listener.Addr().String())
			switch kind {
			case "cluster":
				c.Redis.Options.Addrs = append(c.Redis.Options.Addrs, c.Redis.Options.Addrs[0])
			case "sentinel":
				c.Redis.Options.MasterName = "here"
			}
			l := newLeases(t, c)
			l.times.pause = time.Hour
			l.times.patience = 200 * time.Millisecond
			for range 100 {
				j := new(job)
				if err := j.on(t.Context(), l, "k"); err != nil || j.times.Load() != 1 {
					t.Errorf("error %v, done %d times", err, j.times.Load())
				}
			}
			if n := said(hook, saidAway); n != 1 {
				t.Errorf("it was said %d times that Redis is away", n)
			}
		})
	}
}

// Redis goes away while one works and another waits: the other does the work, too.
func TestAwayWhileWaiting(t *testing.T) {
	for _, test := range []struct {
		name string
		away func(*testing.T, *needs.Redis)
	}{
		{"killed", func(t *testing.T, s *needs.Redis) { s.Signal(t, syscall.SIGKILL) }},
		{"stopped", func(t *testing.T, s *needs.Redis) { s.Signal(t, syscall.SIGSTOP) }},
		{"emptied", func(t *testing.T, s *needs.Redis) { s.Tell(t, "flushall") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := needs.StartRedis(t)
			all := replicas(t, s, 2)
			for _, l := range all {
				l.times.poll = 10 * time.Millisecond
				l.times.patience = 2 * time.Second
			}
			others := make(chan error)
			j := new(job)
			j.during = func() error {
				if j.times.Load() > 1 {
					return nil
				}
				go func() { others <- j.on(context.Background(), all[1], "k") }()
				awaitWaiting(t, all[1])
				test.away(t, s)
				return <-others
			}
			if err := j.on(t.Context(), all[0], "k"); err != nil {
				t.Error(err)
			}
			if n := j.times.Load(); n != 2 {
				t.Errorf("the work was done %d times", n)
			}
		})
	}
}

// A Redis that is full answers some questions, and gives no lease: it is not said to be back.
func TestFull(t *testing.T) {
	hook := hears(t)
	s := needs.StartRedis(t)
	all := replicas(t, s, 2)
	for _, l := range all {
		l.times.pause = 0
	}
	release, ok := all[0].Try(t.Context(), "k")
	if !ok {
		t.Fatal("it is taken")
	}
	s.Tell(t, "config", "set", "maxmemory", "1")
	for range 3 {
		if err := new(job).on(t.Context(), all[0], "other"); err != nil {
			t.Error(err)
		}
		if err := all[0].failure(t.Context(), "k"); err != nil {
			t.Error(err)
		}
	}
	release()
	all[0].releasing.Wait()
	if s.Tell(t, "exists", all[0].seal.name("lease", "k")) != "0" {
		t.Error("the lease is still there when it was given back")
	}
	if away, back := said(hook, saidAway), said(hook, saidBack); away != 1 || back != 0 {
		t.Errorf("it was said %d times that Redis is away, and %d times that it is back", away, back)
	}
}

// A holder that does not extend its lease, as it was killed or stopped, loses it. It goes on, as it
// does not know, and takes nothing from the one that has the lease then.
func TestHolderStops(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	all := replicas(t, s, 3)
	all[0].times.life = time.Hour // so that it is not extended
	all[1].times.poll = 10 * time.Millisecond
	j := new(job)
	j.during = func() error {
		if j.times.Load() > 1 {
			return nil
		}
		others := make(chan error)
		go func() { others <- j.on(context.Background(), all[1], "k") }()
		awaitWaiting(t, all[1])
		s.Tell(t, "pexpire", all[0].seal.name("lease", "k"), "1")
		return <-others
	}
	if err := j.on(t.Context(), all[0], "k"); err != nil {
		t.Error(err)
	}
	if n := j.times.Load(); n != 2 {
		t.Errorf("the work was done %d times", n)
	}
	all[1].releasing.Wait()
	release, ok := all[1].Try(t.Context(), "k")
	if !ok {
		t.Fatal("the lease is not free")
	}
	defer release()
	all[0].releasing.Wait()
	if _, ok := all[2].Try(t.Context(), "k"); ok {
		t.Error("the holder that was stopped has given back the lease of another one")
	}
}

// A lease is extended while the work goes on, and gone when that is over.
func TestExtended(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	l := newLeases(t, config(s.Socket))
	l.times.life = time.Second
	release, ok := l.Try(t.Context(), "k")
	if !ok {
		t.Fatal("it is taken")
	}
	calls := regexp.MustCompile(`cmdstat_pexpire:calls=(\d+)`)
	for times := 0; times < 3; time.Sleep(10 * time.Millisecond) {
		if found := calls.FindStringSubmatch(s.Tell(t, "info", "commandstats")); found != nil {
			times, _ = strconv.Atoi(found[1])
		}
	}
	release()
	l.releasing.Wait()
	if s.Tell(t, "exists", l.seal.name("lease", "k")) != "0" {
		t.Error("it is still there when it was given back")
	}
}

// Who waits goes when its context ends.
func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	s := needs.StartRedis(t)
	all := replicas(t, s, 2)
	release, _ := all[0].Try(t.Context(), "k")
	defer release()
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("left")
	ended := make(chan error)
	go func() { ended <- new(job).on(ctx, all[1], "k") }()
	awaitWaiting(t, all[1])
	cancel(left)
	if err := <-ended; !errors.Is(err, left) {
		t.Errorf("error %v, want %v", err, left)
	}
}
