package lease

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// Redis as a cluster, and behind sentinels: one replica does the work, another one waits and is
// woken.
func TestKindsOfRedis(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		start func(t *testing.T) configuration.RedisOptions
	}{
		{"cluster", startCluster},
		{"sentinel", startSentinel},
		{"database", func(t *testing.T) configuration.RedisOptions {
			return configuration.RedisOptions{Addrs: []string{needs.StartRedis(t).Socket}, DB: 7, Protocol: 2}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			options := test.start(t)
			all := make([]*Leases, 3)
			for i := range all {
				c := config("")
				c.Redis.Options = options
				all[i] = newLeases(t, c)
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
			for i, l := range all {
				l.releasing.Wait()
				if l.health.away {
					t.Errorf("replica %d takes Redis to be away", i)
				}
			}
		})
	}
}

func startCluster(t *testing.T) configuration.RedisOptions {
	t.Helper()
	port := freePort(t)
	s := needs.StartRedis(
		t, "--bind", "127.0.0.1", "--port", port, "--cluster-enabled", "yes", "--cluster-port", freePort(t),
		"--cluster-announce-ip", "127.0.0.1",
	)
	s.Tell(t, "cluster", "addslotsrange", "0", "16383")
	for !strings.Contains(s.Tell(t, "cluster", "info"), "cluster_state:ok") {
		time.Sleep(10 * time.Millisecond)
	}
	return configuration.RedisOptions{Addrs: []string{"127.0.0.1:" + port, "127.0.0.1:" + port}}
}

func startSentinel(t *testing.T) configuration.RedisOptions {
	t.Helper()
	master, port := freePort(t), freePort(t)
	needs.StartRedis(t, "--bind", "127.0.0.1", "--port", master)
	file := filepath.Join(t.TempDir(), "sentinel.conf") // which it writes to
	text := "sentinel monitor here 127.0.0.1 " + master + " 1\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	needs.StartRedis(t, file, "--sentinel", "--bind", "127.0.0.1", "--port", port)
	return configuration.RedisOptions{Addrs: []string{"127.0.0.1:" + port}, MasterName: "here"}
}
