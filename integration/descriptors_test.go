package integration

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// deleteBlob removes a blob from a repository by the registry's API.
func deleteBlob(t *testing.T, r *Registry, name string, blob digest.Digest) {
	t.Helper()
	request, err := http.NewRequestWithContext(
		t.Context(), http.MethodDelete, "http://"+r.Addr+"/v2/"+name+"/blobs/"+blob.String(), nil,
	)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Errorf("deleting blob %s is answered with %s", blob, response.Status)
	}
}

// TestDescriptorCache lets the registry remember which blobs exist. That memory is wrong after a
// garbage collection or a loss that the registry did not see. Images are built all the same.
func TestDescriptorCache(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"inmemory", "redis"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			Needs(t, "crane", "skopeo")
			settings := []string{"storage.cache.blobdescriptor=" + kind}
			remembers := func(key string) bool { return false }
			if kind == "redis" {
				redis := needs.StartRedis(t)
				settings = append(settings, "redis="+mustJSON(t, map[string]any{"addrs": []string{redis.Socket}}))
				remembers = func(key string) bool { return redis.Tell(t, "exists", key) == "1" }
			}
			r := StartRegistry(t, settings...)
			first := r.Pull(t, "hello")
			check := func(when string, r *Registry, builds int) {
				t.Helper()
				got := r.Pull(t, "hello")
				if got.Digest != first.Digest {
					t.Errorf("%s, it has digest %s, had %s", when, got.Digest, first.Digest)
				}
				r.CheckWhole(t, got)
				if status := ask(t, r, "hello", "Accept", dockerManifest); status != http.StatusOK {
					t.Errorf("%s, Docker's form is answered with %d", when, status)
				}
				Exec(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+r.Ref("hello"), destination(t))
				if got := strings.Count(r.Log(), logBuilt); got != builds {
					t.Errorf("%s, it has been built %d times, want %d", when, got, builds)
				}
			}
			check("at first", r, 1)
			check("once more", r, 1)
			if kind == "redis" {
				layer := first.Layers[0].Digest.String()
				if !remembers("blobs::" + layer) {
					t.Errorf("Redis does not know layer %s", layer)
				}
				other := StartRegistry(t, append(settings, "storage.filesystem.rootdirectory="+r.storage())...)
				check("at another registry", other, 0)
				other.Stop()
			}

			r.Stop()
			r.GarbageCollect("-m") // takes Docker's form
			r.Start()
			check("after a garbage collection", r, 1)

			Exec(t, "crane", "delete", r.Ref("hello@"+first.Digest.String()))
			for _, blob := range append([]v1.Descriptor{first.Config}, first.Layers...) {
				deleteBlob(t, r, "hello", blob.Digest)
			}
			check("deleted, with its blobs", r, 2)

			Exec(t, "crane", "delete", r.Ref("hello@"+first.Digest.String()))
			r.Stop()
			r.GarbageCollect("-m")
			r.Start()
			if got := len(files(t, filepath.Join(r.storage(), "docker"))); got != 0 {
				t.Errorf("%d files are left after the garbage collection", got)
			}
			check("deleted and collected", r, 3)

			r.forget(t, "hello")
			for _, layer := range first.Layers {
				r.loseBlob(t, layer.Digest)
			}
			check("lost while the registry ran", r, 4)
		})
	}
}
