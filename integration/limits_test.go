package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image that takes longer than build.total ends, with what Nix runs for it, and makes room for
// others.
func TestTotal(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	set := filepath.Join(packages, "default.nix")
	chain := `{
  # Each is made of the one before.
  chain = builtins.foldl' (
    before: n: package "chain${toString n}" "echo ${before}; $b sleep 1; $b mkdir -p $out/bin; echo ${toString n} > $out/bin/chain"
  ) "nothing" (genList (n: n) 100);
  quick =`
	Write(t, set, strings.Replace(Read(t, set), "{\n  quick =", chain, 1))
	r := StartRegistry(
		t, "nix.packages.path="+packages, "nix.build.concurrency=1", "nix.build.timeout=15s",
		"nix.build.total=15s",
	)
	for range 2 { // the second time it is remembered
		status, _, body, err := r.Get(t.Context(), "/v2/chain/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusForbidden ||
			!strings.Contains(string(body), "longer than the 15s that build.total allows") {
			t.Fatalf("the answer is %d %s, %v", status, body, err)
		}
	}
	if n := strings.Count(r.Log(), "nix: building 100 derivations"); n != 1 {
		t.Errorf("it was begun %d times", n)
	}
	Eventually(
		t, commandTime, "Nix builds nothing of it any more",
		func() bool { return !runsWith(t, Read(t, filepath.Join(packages, "salt"))) },
	)
	r.Pull(t, "quick")
}

// runsWith tells whether a process has a text in its environment, as builders have their
// derivation's.
func runsWith(t *testing.T, text string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if content, err := os.ReadFile(file); err == nil && bytes.Contains(content, []byte(text)) {
			return true
		}
	}
	return false
}

// Commits that clients choose don't take all places, and so latest does not wait for them.
func TestShareOfClients(t *testing.T) {
	t.Parallel()
	repo := newRepository(t)
	var commits []string
	for n := range 4 {
		commits = append(commits, repo.commit(fmt.Sprint("commit ", n)))
	}
	r := StartRegistry(
		t,
		append(gitSettings("file://"+repo.dir), "nix.build.concurrency=2", "nix.build.queue=2", "nix.build.hold=1s")...)
	ask := func(name, tag string) (status int, body string) {
		t.Helper()
		status, _, answer, err := r.Get(t.Context(), "/v2/"+name+"/manifests/"+tag, v1.MediaTypeImageManifest)
		if err != nil {
			t.Fatal(err)
		}
		return status, string(answer)
	}
	for _, commit := range commits[:3] { // of four places, three are for them
		if status, body := ask("sleeps.s120", commit); status != http.StatusTemporaryRedirect {
			t.Errorf("%s is answered with %d %s", commit, status, body)
		}
	}
	if status, body := ask("sleeps.s119", commits[0]); status != http.StatusTooManyRequests ||
		!strings.Contains(body, "revisions that clients chose") {
		t.Errorf("one too many is answered with %d %s", status, body)
	}
	r.AwaitLog(logBuilding, 1) // of two at a time, one is theirs
	r.PullTag(t, "quick", "latest")
	if log := r.Log(); strings.Count(log, logBuilt) != 1 || strings.Count(log, logBuilding) != 2 {
		t.Error("latest has waited for another revision, or two of them were built at a time")
	}
}

// A client is told to come back when it has enough under way, or has asked for enough that is not
// there, whatever it says of itself.
func TestClients(t *testing.T) {
	t.Parallel()
	r := StartRegistry(
		t, "nix.packages.path="+FreshPackages(t), "nix.build.concurrency=5", "nix.build.perclient=2",
		"nix.build.newperhour=6", "nix.build.hold=1s", `nix.build.trustedproxies=["127.0.0.1"]`,
	)
	// ask pulls an image from an address of this machine, over a proxy that appends or directly.
	ask := func(from, name, forwarded string) (status int, header http.Header) {
		t.Helper()
		transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, network, address)
		}}
		defer transport.CloseIdleConnections()
		request, err := http.NewRequestWithContext(
			t.Context(), http.MethodGet, "http://"+r.Addr+"/v2/"+name+"/manifests/latest", nil,
		)
		if err != nil {
			t.Fatal(err)
		}
		request.Header = http.Header{"Accept": {v1.MediaTypeImageManifest}, "X-Forwarded-For": {forwarded}}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode, response.Header
	}
	for n := range 6 {
		for from, client := range map[string]string{"127.0.0.1": "198.51.100.7", "127.0.0.2": ""} {
			forwarded := fmt.Sprintf("203.0.113.%d, %s", n, client)
			want := http.StatusTemporaryRedirect
			if n >= 2 {
				want = http.StatusTooManyRequests
			}
			name := fmt.Sprintf("sleeps.s%d", 100+n)
			if client == "" {
				forwarded, name = fmt.Sprint("203.0.113.", n), fmt.Sprintf("sleeps.s%d", 110+n)
			}
			if status, header := ask(from, name, forwarded); status != want ||
				want == http.StatusTooManyRequests && header.Get("Retry-After") != "10" {
				t.Errorf("request %d from %s, which says %q: %d, want %d", n, from, forwarded, status, want)
			}
		}
	}
	// Six that were not there are all for an hour, what is stored is not counted, and others ask
	// for what they like.
	status, header := ask("127.0.0.2", "quick", "")
	if wait, err := strconv.Atoi(header.Get("Retry-After")); status != http.StatusTooManyRequests || err != nil ||
		wait < 60 ||
		wait > 600 {
		t.Errorf(
			"one too many that is not there is answered with %d, to be asked again after %q", status,
			header.Get("Retry-After"),
		)
	}
	r.Pull(t, "quick")
	if status, _ := ask("127.0.0.2", "quick", ""); status != http.StatusOK {
		t.Errorf("what is stored is answered with %d", status)
	}
}
