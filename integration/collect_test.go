package integration

import (
	"errors"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestCollect has blobs collected while two registries serve the storage: what would be deleted, a
// collection that is interrupted, and what registries answer while one sweeps. How a collection ends
// is for the tests of the middleware, as it takes a quarter of an hour.
func TestCollect(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	packages := FreshPackages(t)
	r := StartRegistry(t, "nix.packages.path="+packages)
	other := StartRegistry(t, "nix.packages.path="+packages, "storage.filesystem.rootdirectory="+r.storage())
	gone := r.Pull(t, "quick")
	kept := r.Pull(t, "quick/certs")
	r.Linked(t)
	r.untagAll(t, "quick")

	collected := func(want ...string) {
		t.Helper()
		stdout, stderr, err := r.nix("collect")
		if err != nil || !slices.Equal(strings.Fields(stdout), want) || !strings.Contains(stderr, "would be deleted") {
			t.Errorf("collecting: %v, %q, %s; want %q", err, stdout, stderr, want)
		}
	}
	collected() // it is new
	r.age(t, 48*time.Hour)
	collected("quick@" + gone.Digest.String())
	other.CheckWhole(t, kept)

	record := r.interruptCollect(t)
	if content := Read(t, record); !strings.Contains(content, `"ended"`) || strings.Contains(content, "swept") {
		t.Errorf("the record of the collection that was interrupted: %s", content)
	}
	collected("quick@" + gone.Digest.String())

	// A collection that sweeps, and has died.
	sweeps := strings.Replace(filepath.Base(record), "0000000001", "0000000002", 1)
	Write(t, filepath.Join(filepath.Dir(record), sweeps), `{"phase":"sweeping","seconds":300}`)
	for _, registry := range []*Registry{r, other} {
		Eventually(t, commandTime, "pushes are refused", func() bool {
			status, header := registry.post(t, "/v2/pushed/blobs/uploads/")
			return status == http.StatusServiceUnavailable && header.Get("Retry-After") != ""
		})
		status, header, body, err := registry.Get(t.Context(), "/v2/services/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" ||
			!strings.Contains(string(body), "blobs are being collected") {
			t.Errorf("a build: %d %v %s, %v", status, header, body, err)
		}
		registry.CheckWhole(t, registry.Pull(t, "quick/certs"))
	}
	Write(t, filepath.Join(filepath.Dir(record), sweeps), `{"phase":"ended"}`)
	for _, registry := range []*Registry{r, other} {
		Eventually(t, commandTime, "pushes go on", func() bool {
			status, _ := registry.post(t, "/v2/pushed/blobs/uploads/")
			return status == http.StatusAccepted
		})
		push(t, registry.Ref("pushed:latest"), registry.Addr)
		registry.CheckWhole(t, registry.Pull(t, "services"))
	}
}

// untagAll deletes all tags of a repository, as an operator does.
func (r *Registry) untagAll(t *testing.T, name string) {
	t.Helper()
	tags, err := filepath.Glob(filepath.Join(
		r.storage(), "docker/registry/v2/repositories", name, "_manifests/tags/*"))
	if err != nil || len(tags) == 0 {
		t.Fatalf("%s has tags %q: %v", name, tags, err)
	}
	for _, tag := range tags {
		Exec(t, "crane", "delete", r.Ref(name+":"+filepath.Base(tag)))
	}
}

// interruptCollect begins a collection, interrupts it when it has condemned its candidates, and
// returns the file of its record.
func (r *Registry) interruptCollect(t *testing.T) string {
	t.Helper()
	program, err := shared.lookPath("registry")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, "nix", "collect", "--yes", "--config", r.ConfigFile())
	command.Env = append(shared.environ(), r.Env...)
	var output strings.Builder
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var records []string
	Eventually(t, commandTime, "there is a record of a collection", func() bool {
		records, _ = filepath.Glob(filepath.Join(r.storage(), "nix/v1/collection/runs/*"))
		return len(records) == 1 && filepath.Ext(records[0]) != ".tmp"
	})
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := new(exec.ExitError)
	if err := command.Wait(); !errors.As(err, &ended) || ended.ExitCode() != 1 ||
		!strings.Contains(output.String(), "interrupted") {
		t.Errorf("the collection ended: %v, %s", err, output.String())
	}
	return records[0]
}

// post sends an empty request.
func (r *Registry) post(t *testing.T, path string) (status int, header http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode, answer.Header
}
