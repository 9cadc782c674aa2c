package integration

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// These are the log's lines when a replica waits for another one, and when Redis goes and comes.
const (
	logWaiting = "nix: another replica does this, and is waited for: building "
	logAway    = "nix: Redis can't be used"
	logBack    = "nix: Redis can be used again"
)

// startReplicas starts registries that share the storage of the first, and a Redis. Each has a cache
// directory of its own.
func startReplicas(t *testing.T, n int, addr string, settings ...string) []*Registry {
	t.Helper()
	settings = append(settings, "redis="+mustJSON(t, map[string]any{"addrs": []string{addr}}))
	all := make([]*Registry, n)
	for i := range all {
		all[i] = NewRegistry(t, settings...)
		settings = append(settings[:len(settings):len(settings)], "storage.filesystem.rootdirectory="+all[0].storage())
		all[i].Configure(settings...)
		all[i].Start()
	}
	return all
}

// count counts the lines of all logs together that have a text.
func count(all []*Registry, text string) (n int) {
	for _, r := range all {
		n += strings.Count(r.Log(), text)
	}
	return n
}

// manifest asks for the manifest of NAME:latest as a client does that is not this test: nothing of
// it fails the test.
func (r *Registry) manifest(ctx context.Context, name string) (digest.Digest, error) {
	request, err := http.NewRequestWithContext(
		ctx, http.MethodGet, "http://"+r.Addr+"/v2/"+name+"/manifests/latest", nil,
	)
	if err != nil {
		return "", err
	}
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("pulling %s: %s: %s", name, response.Status, body)
	}
	return digest.FromBytes(body), err
}

// A pulled image, or why it was not.
type pulled struct {
	digest digest.Digest
	err    error
}

// pulls is manifest in the background.
func (r *Registry) pulls(t *testing.T, name string) <-chan pulled {
	t.Helper()
	result := make(chan pulled, 1)
	go func() {
		got, err := r.manifest(t.Context(), name)
		result <- pulled{got, err}
	}()
	return result
}

// commands are how often Redis was told to do what, but for greetings.
func commands(t *testing.T, redis *needs.Redis) map[string]string {
	t.Helper()
	told := make(map[string]string)
	stats := redis.Tell(t, "info", "commandstats")
	for _, line := range regexp.MustCompile(`cmdstat_(\w+):calls=(\d+)`).FindAllStringSubmatch(stats, -1) {
		switch line[1] {
		case "hello", "ping", "client", "info", "config", "command", "subscribe":
		default:
			told[line[1]] = line[2]
		}
	}
	return told
}

// TestReplicasOneBuild has 300 clients of each of three replicas ask for one image, and then for
// three others.
func TestReplicasOneBuild(t *testing.T) {
	t.Parallel()
	const clients = 300
	redis := needs.StartRedis(t)
	replicas := startReplicas(t, 3, redis.Socket, "nix.packages.path="+FreshPackages(t))
	digests := make([]digest.Digest, clients*len(replicas))
	var all sync.WaitGroup
	for i := range digests {
		r := replicas[i%len(replicas)]
		all.Go(func() {
			var err error
			if digests[i], err = r.manifest(t.Context(), "sleeps.s3"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, got := range digests {
		if got != digests[0] {
			t.Fatalf("one client got %s, another one %s", digests[0], got)
		}
	}
	for _, once := range []string{logBuilding, logBuilt} {
		if n := count(replicas, once); n != 1 {
			t.Errorf("the logs have %q %d times, want 1", once, n)
		}
	}
	if n := count(replicas, logWaiting); n != 2 {
		t.Errorf("%d replicas have waited, want 2", n)
	}

	for i, r := range replicas {
		all.Go(func() { r.CheckWhole(t, r.Pull(t, fmt.Sprintf("sleeps.s%d", i))) })
	}
	all.Wait()
	if built, waited := count(replicas, logBuilt), count(replicas, logWaiting); built != 4 || waited != 2 {
		t.Errorf("4 images were built %d times, and waited for %d times, want 2", built, waited)
	}
}

// TestReplicasOneFailure has all replicas asked for a package that fails to build. It is built once.
func TestReplicasOneFailure(t *testing.T) {
	t.Parallel()
	replicas := startReplicas(t, 3, needs.StartRedis(t).Socket, "nix.packages.path="+FreshPackages(t))
	var all sync.WaitGroup
	for _, r := range replicas {
		all.Go(func() {
			for range 2 { // as with HEAD and GET
				_, err := r.manifest(t.Context(), "fails")
				if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "no such luck") {
					t.Errorf("error %v, want 403 with the build's last words", err)
				}
			}
		})
	}
	all.Wait()
	if n := count(replicas, logBuilding); n != 1 {
		t.Errorf("it was built %d times", n)
	}
}

// TestReplicasPrebuild has three replicas prebuild the same images. Each is built once.
func TestReplicasPrebuild(t *testing.T) {
	t.Parallel()
	replicas := startReplicas(
		t, 3, needs.StartRedis(t).Socket, "nix.packages.path="+FreshPackages(t), `nix.prebuild=["sleeps.s5", "quick"]`,
	)
	for _, r := range replicas {
		r.CheckWhole(t, r.Pull(t, "sleeps.s5"))
		r.CheckWhole(t, r.Pull(t, "quick"))
	}
	if n := count(replicas, logBuilt); n != 2 {
		t.Errorf("2 images were built %d times", n)
	}
}

// TestLeaseCommands counts what Redis is asked for a pull.
func TestLeaseCommands(t *testing.T) {
	t.Parallel()
	redis := needs.StartRedis(t)
	r := startReplicas(t, 1, redis.Socket, "nix.packages.path="+FreshPackages(t))[0]
	Eventually(t, commandTime, "the registry has given back its first lease", func() bool {
		return commands(t, redis)["publish"] == "1"
	})
	redis.Tell(t, "config", "resetstat")
	r.Pull(t, "quick")
	Eventually(t, commandTime, "the lease was given back", func() bool { return commands(t, redis)["publish"] == "1" })
	// The script that gives a lease back is a command, with a get and a del in it.
	want := "map[del:1 evalsha:1 get:1 getrange:1 publish:1 set:1]"
	if got := fmt.Sprint(commands(t, redis)); got != want {
		t.Errorf("a pull that builds: %s, want %s", got, want)
	}
	redis.Tell(t, "config", "resetstat")
	r.Pull(t, "quick")
	if got := commands(t, redis); len(got) != 0 {
		t.Errorf("a pull of what is stored: %v, want nothing", got)
	}
}

// TestReplicasKilled kills a replica that makes four images, at five moments. Clients that wait at
// another replica get the images, each of which is committed once.
func TestReplicasKilled(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(17, 9))
	for i := range 5 {
		moment := time.Duration(i*800+random.IntN(800)) * time.Millisecond
		t.Run(moment.String(), func(t *testing.T) {
			t.Parallel()
			replicas := startReplicas(t, 2, needs.StartRedis(t).Socket, "nix.packages.path="+FreshPackages(t))
			killHolder(t, replicas, moment, "sleeps.s1", "sleeps.s2", "sleeps.s3", "bulky/sleeps.s1")
		})
	}
}

// killHolder has the first replica asked for images, then the second one, and kills the first a while
// later.
func killHolder(t *testing.T, replicas []*Registry, after time.Duration, names ...string) {
	t.Helper()
	holder, other := replicas[0], replicas[1]
	made := func(r *Registry) int { return strings.Count(r.Log(), logBuilt) }
	var lost, got []<-chan pulled
	for _, name := range names {
		lost = append(lost, holder.pulls(t, name))
	}
	holder.AwaitLog("nix: building ", 1)
	for _, name := range names {
		got = append(got, other.pulls(t, name))
	}
	Eventually(t, commandTime, "the second replica waits for all that is not made", func() bool {
		return strings.Count(other.Log(), logWaiting)+made(holder)+made(other) >= len(names)
	})
	time.Sleep(after)
	holder.Kill()
	for i, name := range names {
		<-lost[i]
		image := <-got[i]
		if image.err != nil {
			t.Errorf("the other replica: %v", image.err)
			continue
		}
		manifests, err := os.ReadDir(filepath.Join(
			holder.storage(), "docker/registry/v2/repositories", name, "_manifests/tags/latest/index/sha256",
		))
		if err != nil || len(manifests) != 1 || manifests[0].Name() != image.digest.Encoded() {
			t.Errorf("the tag of %s was given to %v, %v, want %s alone", name, manifests, err, image.digest)
		}
		other.CheckWhole(t, other.Pull(t, name))
	}
	t.Logf("of %d images, the replica that was killed has made %d, the other one %d", len(names), made(holder), made(other))
}

// TestReplicaEnds ends the replica that makes an image, as an operator does. Another one that waits
// makes it.
func TestReplicaEnds(t *testing.T) {
	t.Parallel()
	replicas := startReplicas(
		t, 2, needs.StartRedis(t).Socket, "nix.packages.path="+FreshPackages(t), "http.draintimeout=1s",
	)
	holder, other := replicas[0], replicas[1]
	ended := holder.pulls(t, "sleeps.s5")
	holder.AwaitLog(logBuilding, 1)
	got := other.pulls(t, "sleeps.s5")
	other.AwaitLog(logWaiting, 1)
	holder.Stop()
	<-ended
	if image := <-got; image.err != nil {
		t.Error(image.err)
	}
	other.CheckWhole(t, other.Pull(t, "sleeps.s5"))
}

// TestReplicaStopped stops the replica that makes an image until another one has made it, of the
// same revision or of a later one. It goes on then, and harms nothing.
func TestReplicaStopped(t *testing.T) {
	t.Parallel()
	for _, edited := range []bool{false, true} {
		t.Run(fmt.Sprintf("edited %t", edited), func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t)
			replicas := startReplicas(t, 2, needs.StartRedis(t).Socket, "nix.packages.path="+packages)
			holder, other := replicas[0], replicas[1]
			late := holder.pulls(t, "sleeps.s3")
			holder.AwaitLog(logBuilding, 1)
			signal := func(signal syscall.Signal) {
				if err := holder.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
			signal(syscall.SIGSTOP)
			if edited {
				Write(t, filepath.Join(packages, "text"), "edited")
			}
			image := other.Pull(t, "sleeps.s3")
			signal(syscall.SIGCONT)
			if got := <-late; got.err != nil || got.digest != image.Digest && !edited {
				t.Errorf("the replica that was stopped serves %s, %v, the other one %s", got.digest, got.err, image.Digest)
			}
			for _, r := range replicas {
				again := r.Pull(t, "sleeps.s3")
				if again.Digest != image.Digest {
					t.Errorf("a replica serves %s, want %s", again.Digest, image.Digest)
				}
				r.CheckWhole(t, again)
			}
		})
	}
}

// TestReplicasWithoutRedis has Redis go away while one replica builds and another one waits. Both
// serve what they are asked for, and say once that Redis is away, and once that it is back.
func TestReplicasWithoutRedis(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		away, back syscall.Signal
	}{
		{"killed", syscall.SIGKILL, 0},
		{"stopped", syscall.SIGSTOP, syscall.SIGCONT},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			redis := needs.StartRedis(t)
			packages := FreshPackages(t)
			replicas := startReplicas(t, 2, redis.Socket, "nix.packages.path="+packages)
			edits := 0
			both := func() {
				edits++
				Write(t, filepath.Join(packages, "text"), fmt.Sprint(edits))
				var all sync.WaitGroup
				for _, r := range replicas {
					all.Go(func() { r.CheckWhole(t, r.Pull(t, "quick")) })
				}
				all.Wait()
			}
			first, second := replicas[0].pulls(t, "sleeps.s3"), replicas[1].pulls(t, "sleeps.s3")
			Eventually(t, commandTime, "one waits", func() bool { return count(replicas, logWaiting) == 1 })
			redis.Signal(t, test.away)
			if a, b := <-first, <-second; a.err != nil || b.err != nil || a.digest != b.digest {
				t.Errorf("one replica serves %s, %v, the other one %s, %v", a.digest, a.err, b.digest, b.err)
			}
			both()
			both()
			for i, r := range replicas {
				if n := strings.Count(r.Log(), logAway); n != 1 {
					t.Errorf("replica %d has said %d times that Redis is away", i, n)
				}
			}
			if test.back == 0 {
				redis.Start(t)
			} else {
				redis.Signal(t, test.back)
			}
			for count(replicas, logBack) < len(replicas) {
				both()
			}
			if n := count(replicas, logAway); n != len(replicas) {
				t.Errorf("%d replicas have said %d times that Redis is away", len(replicas), n)
			}
		})
	}
}

// TestSilentRedis pulls while what is configured as Redis accepts connections and says nothing, from
// the start on.
func TestSilentRedis(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	replicas := startReplicas(t, 2, listener.Addr().String(), "nix.packages.path="+FreshPackages(t))
	for i, r := range replicas {
		r.CheckWhole(t, r.Pull(t, "quick"))
		if n := strings.Count(r.Log(), logAway); n != 1 {
			t.Errorf("replica %d has said %d times that Redis is away", i, n)
		}
	}
}

// TestCheckRedis has `serve --check` look at files of TLS that can't be used.
func TestCheckRedis(t *testing.T) {
	t.Parallel()
	none := filepath.Join(Dir(t), "none")
	r := NewRegistry(t, "redis="+mustJSON(t, map[string]any{
		"addrs": []string{"127.0.0.1:1"}, "tls": map[string]any{"rootcas": []string{none}, "key": none},
	}))
	_, stderr, err := r.checkConfig()
	for _, want := range []string{"redis.tls.rootcas[0]: ", "redis.tls.certificate: missing"} {
		if err == nil || !strings.Contains(stderr, want) {
			t.Errorf("error %v, %q, want %q", err, stderr, want)
		}
	}
}
