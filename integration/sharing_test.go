package integration

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestManyClientsOneBuild(t *testing.T) {
	t.Parallel()
	const clients = 200
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	before := len(r.Programs())

	answers := make([]string, clients)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			status, header, body, err := r.Get(t.Context(), "/v2/sleeps.s3/manifests/latest", v1.MediaTypeImageManifest)
			if err != nil || status != http.StatusOK {
				t.Errorf("status %d, %v: %s", status, err, body)
			}
			answers[i] = header.Get("Docker-Content-Digest") + string(body)
		})
	}
	all.Wait()
	if slices.Sort(answers); answers[0] != answers[clients-1] || answers[0] == "" {
		t.Errorf("answers differ: %s, %s", answers[0], answers[clients-1])
	}
	log := r.Log()
	for _, once := range []string{logBuilding, logBuilt} {
		if got := strings.Count(log, once); got != 1 {
			t.Errorf("the log has %q %d times, want 1", once, got)
		}
	}
	// One finds out what the name stands for, another writes the derivation for Nix to build. The
	// daemon starts programs of its own.
	evaluations := slices.DeleteFunc(r.Programs()[before:], func(name string) bool { return name != "nix-instantiate" })
	if len(evaluations) != 2 {
		t.Errorf("%d evaluations, want 2", len(evaluations))
	}
}

func TestBuildOutlivesClient(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, _, _, err := r.Get(ctx, "/v2/sleeps.s4/manifests/latest", v1.MediaTypeImageManifest)
		left <- err
	}()
	r.AwaitLog(logBuilding, 1)
	leave()
	if err := <-left; err == nil {
		t.Fatal("the image was there before the client left")
	}
	r.AwaitLog(logBuilt, 1)
	r.CheckWhole(t, r.Pull(t, "sleeps.s4"))
	if got := strings.Count(r.Log(), logBuilding); got != 1 {
		t.Errorf("it was built %d times, want 1", got)
	}
}

// TestLayersOfOthers pulls a revision that a client chose, whose package claims store paths that
// others need. It decides about the layers of no other image.
func TestLayersOfOthers(t *testing.T) {
	t.Parallel()
	packages := newRepository(t)
	packages.commit("main")
	packages.git("checkout", "--quiet", "-b", "theirs")
	set := filepath.Join(packages.dir, "default.nix")
	before := Read(t, set)
	Write(t, set, strings.Replace(before, "  quick = ", "  claims = linked \"claims\";\n  quick = ", 1))
	packages.commit("theirs")
	packages.git("checkout", "--quiet", "main")

	clean := StartRegistry(t, gitSettings("file://"+packages.dir)...)
	want := clean.Pull(t, "reader")
	r := StartRegistry(t, gitSettings("file://"+packages.dir)...)
	r.CheckWhole(t, r.PullTag(t, "claims", "theirs"))
	if got := r.Pull(t, "reader"); got.Digest != want.Digest {
		t.Errorf(
			"it is %s with %d layers, and %s with %d where nobody pulled theirs", got.Digest, len(got.Layers),
			want.Digest, len(want.Layers),
		)
	}
}
