package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestKill kills the registry in the midst of things, starts it again and pulls again.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, image string
		packages    func(testing.TB) string
		reached     func(r *Registry) // returns when it is time to kill
	}{
		{
			name: "building", image: "sleeps.s6", packages: FreshPackages,
			reached: func(r *Registry) { r.AwaitLog(logBuilding, 1) },
		},
		{
			name: "packing", image: "shell/git/python3", packages: DemoPackages,
			reached: func(r *Registry) {
				Eventually(r.t, commandTime, "a layer is stored", func() bool {
					blobs, err := filepath.Glob(filepath.Join(
						r.Dir, "storage", "docker", "registry", "v2", "blobs", "sha256", "*", "*", "data",
					))
					return err == nil && len(blobs) > 0
				})
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := StartRegistry(t, "nix.packages.path="+test.packages(t))
			asked := make(chan struct{})
			go func() {
				defer close(asked)
				_, _, _, _ = r.Get(
					t.Context(), "/v2/"+test.image+"/manifests/latest", v1.MediaTypeImageManifest,
				) // ends with the registry
			}()
			test.reached(r)
			r.Kill()
			<-asked
			tag := filepath.Join(
				r.Dir, "storage", "docker", "registry", "v2", "repositories", test.image, "_manifests",
				"tags", "latest",
			)
			if _, err := os.Stat(tag); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("there is a tag already: %v", err)
			}
			r.Start()
			r.CheckWhole(t, r.Pull(t, test.image))
		})
	}
}

// TestKillLinking kills the registry as soon as it has answered with an image of layers that it
// had: clients get them all the same.
func TestKillLinking(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t)
	r.Pull(t, "shell/git/python3")
	image := r.Pull(t, "git/python3")
	r.Kill()
	r.Start()
	r.CheckWhole(t, image)
	r.Linked(t)
	for _, layer := range image.Layers {
		links := filepath.Join(r.storage(), "docker/registry/v2/repositories", image.Name, "_layers/sha256")
		if _, err := os.Stat(filepath.Join(links, layer.Digest.Encoded(), "link")); err != nil {
			t.Errorf("a layer is not linked: %v", err)
		}
	}
}
