package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// pullers are clients that get an image with one command each.
var pullers = []struct {
	name  string
	agent string // as which it is known to registries
	tools []string
	pull  func(ctx context.Context, ref string) error
}{
	{"docker", "docker/", []string{"docker"}, command("docker", "pull", "--quiet")},
	{"podman", "containers/", []string{"podman"}, command("podman", "pull", "--quiet", "--tls-verify=false")},
	{"skopeo", "skopeo/", []string{"skopeo"}, func(ctx context.Context, ref string) error {
		return command("skopeo", "inspect", "--tls-verify=false", "--no-tags")(ctx, "docker://"+ref)
	}},
	{"containerd", "containerd/", nil, pullWithContainerd},
}

func command(name string, args ...string) func(context.Context, string) error {
	return func(ctx context.Context, ref string) error {
		if _, stderr, err := TryExec(ctx, name, append(args, ref)...); err != nil {
			return fmt.Errorf("%w\n%s", err, stderr)
		}
		return nil
	}
}

// pullWithContainerd resolves a tag and fetches its manifest as containerd does: its HTTP transport
// gives up when an answer has no header after 30 seconds.
func pullWithContainerd(ctx context.Context, ref string) error {
	return fetchManifest(ctx, docker.NewResolver(docker.ResolverOptions{}), ref+":latest")
}

func fetchManifest(ctx context.Context, resolver remotes.Resolver, ref string) error {
	name, manifest, err := resolver.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return err
	}
	content, err := fetcher.Fetch(ctx, manifest)
	if err != nil {
		return err
	}
	defer content.Close()
	n, err := io.Copy(io.Discard, content)
	if err == nil && n != manifest.Size {
		err = fmt.Errorf("the manifest has %d bytes, want %d", n, manifest.Size)
	}
	return err
}

// TestHold has all clients ask at once for what takes longer than any of them may be kept waiting.
func TestHold(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, image string
		settings    []string
	}{
		{"shortened", "sleeps.s5", []string{"nix.build.hold=1s"}},
		{"as it is by default", "sleeps.s100", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, client := range pullers {
				Needs(t, client.tools...)
			}
			r := StartRegistry(t, append(test.settings, "nix.packages.path="+FreshPackages(t))...)
			var all sync.WaitGroup
			for _, client := range pullers {
				all.Go(func() {
					if err := client.pull(t.Context(), r.Ref(test.image)); err != nil {
						t.Errorf("%s: %v", client.name, err)
					}
				})
			}
			all.Wait()
			log := r.Log()
			for _, client := range pullers {
				if held := regexp.MustCompile(`latest\?hold=1 HTTP/1\.1" .* "` + client.agent); !held.MatchString(log) {
					t.Errorf("%s was not sent round", client.name)
				}
			}
			if got := strings.Count(log, logBuilt); got != 1 {
				t.Errorf("the image was built %d times, want 1", got)
			}
		})
	}
}

// TestHoldEnds asks for what takes longer than all redirects that a client follows.
func TestHoldEnds(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.build.hold=1s", "nix.packages.path="+FreshPackages(t))
	response, err := http.Get("http://" + r.Addr + "/v2/sleeps.s14/manifests/latest")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf(
			"the answer is %s, Retry-After %q, want 503 and a time", response.Status,
			response.Header.Get("Retry-After"),
		)
	}
	r.AwaitLog(logBuilt, 1)
	r.CheckWhole(t, r.Pull(t, "sleeps.s14"))
}
