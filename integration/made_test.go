package integration

import (
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPinnedImageIsCollected pulls images by digests that clients have pinned, after the images were
// deleted and collected. They are built again of their revision, in the form that was pinned. What
// was pushed is gone.
func TestPinnedImageIsCollected(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t), "nix.build.hold=1s")
	built := r.Pull(t, "quick")
	docker := r.form(t, "quick", "latest", dockerManifest, dockerManifest)
	Exec(t, "crane", "copy", r.Ref("quick"), r.Ref("own/pushed"))
	for _, name := range []string{"quick", "own/pushed"} {
		Exec(t, "crane", "delete", r.Ref(name+"@"+built.Digest.String()))
	}
	r.Stop()
	r.GarbageCollect("-m")
	r.Start()
	for _, pinned := range []struct {
		name, accept string
		digest       digest.Digest
		want         int
	}{
		{"own/pushed", v1.MediaTypeImageManifest, built.Digest, http.StatusNotFound},
		{"quick", v1.MediaTypeImageManifest, digest.FromString("nothing"), http.StatusNotFound},
		{"quick/quick", v1.MediaTypeImageManifest, digest.FromString("nothing"), http.StatusNotFound},
		{"quick/quick", dockerManifest, docker.digest, http.StatusOK}, // another spelling
		{"quick", dockerManifest, docker.digest, http.StatusOK},
		{"quick", v1.MediaTypeImageManifest, built.Digest, http.StatusOK},
	} {
		path := "/v2/" + pinned.name + "/manifests/" + pinned.digest.String()
		var status int
		var body []byte
		Eventually(t, commandTime, "there is an answer", func() bool { // also where it is sent round
			var err error
			status, _, body, err = r.Get(t.Context(), path, pinned.accept)
			return err == nil && status != http.StatusTemporaryRedirect
		})
		if status != pinned.want || status == http.StatusOK && digest.FromBytes(body) != pinned.digest {
			t.Errorf("%s for %s: %d, want %d: %.200s", path, pinned.accept, status, pinned.want, body)
		}
	}
	r.CheckWhole(t, built)
}
