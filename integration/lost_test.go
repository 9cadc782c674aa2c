package integration

import (
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestLostParts takes parts of built images out of the storage, as a disk may, or an operator. Who
// asks for one then can't get it, but for a manifest. The next pull builds the image again, the same
// as before.
func TestLostParts(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	image := r.Pull(t, "quick")
	for _, test := range []struct {
		name, path string
		lost       digest.Digest
		want       int
	}{
		{"the root layer", "blobs/", image.Layers[0].Digest, http.StatusNotFound},
		{"a layer of store paths", "blobs/", image.Layers[len(image.Layers)-1].Digest, http.StatusNotFound},
		{"the config", "blobs/", image.Config.Digest, http.StatusNotFound},
		{"the manifest", "manifests/", image.Digest, http.StatusOK},
	} {
		r.loseBlob(t, test.lost)
		status, _, body, err := r.Get(t.Context(), "/v2/quick/"+test.path+test.lost.String(), v1.MediaTypeImageManifest)
		if err != nil || status != test.want {
			t.Errorf("%s is lost: %d %s, %v", test.name, status, body, err)
		}
		again := r.Pull(t, "quick")
		if again.Digest != image.Digest {
			t.Errorf("%s is lost: the image was %s and is %s", test.name, image.Digest, again.Digest)
		}
		r.Linked(t)
		r.CheckWhole(t, again)
	}
	// What nobody should have costs nothing, and builds nothing.
	programs := len(r.Programs())
	for _, path := range []string{"blobs/", "manifests/"} {
		other := digest.FromString(path)
		if status, _, _, err := r.Get(t.Context(), "/v2/quick/"+path+other.String()); err != nil ||
			status != http.StatusNotFound {
			t.Errorf("%s of another image: %d, %v", path, status, err)
		}
		r.Pull(t, "quick")
	}
	if now := len(r.Programs()); now != programs {
		t.Errorf("%d programs were started for what no image has", now-programs)
	}
}
