package integration

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPushToSpelling pushes to another spelling than the canonical one: an image of its own, one on
// top of what Nix has built, and an index of what Nix has built. These are there, and nowhere else.
func TestPushToSpelling(t *testing.T) {
	t.Parallel()
	Needs(t, "crane", "skopeo")
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	built := r.Pull(t, spelling)
	push(t, r.Ref(spelling+":latest"), "pushed")
	pushed := r.Pull(t, spelling)
	r.CheckWhole(t, pushed)
	if canonically := r.Pull(t, canonical); canonically.Digest != built.Digest || pushed.Digest == built.Digest {
		t.Errorf("the canonical image is %s, was %s; %s was pushed", canonically.Digest, built.Digest, pushed.Digest)
	}
	tags := r.tagsOf(t, canonical)
	if got := r.tagsOf(t, spelling); !slices.Equal(got, tags) {
		t.Errorf("the tags are %q, and those of the canonical name %q", got, tags)
	}
	revision := tags[0]
	if of := r.PullTag(t, spelling, revision); of.Digest != built.Digest {
		t.Errorf("the image of the revision is %s, want %s", of.Digest, built.Digest)
	}

	layer := filepath.Join(Dir(t), "layer.tar")
	Exec(t, "tar", "cf", layer, "-C", Dir(t), ".")
	Exec(
		t, "crane", "append", "--base", r.Ref(spelling+":"+revision), "--new_layer", layer,
		"--new_tag", r.Ref(spelling+":more"),
	)
	more := r.PullTag(t, spelling, "more")
	if len(more.Layers) != len(built.Layers)+1 {
		t.Errorf("the image has %d layers", len(more.Layers))
	}
	Exec(
		t, "skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false",
		"docker://"+r.Ref(spelling+":"+revision), "docker://"+r.Ref(spelling+":same"),
	)
	for _, tag := range []string{"more", "same"} {
		Exec(t, "crane", "validate", "--remote", r.Ref(spelling+":"+tag))
	}
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{{
		MediaType: v1.MediaTypeImageManifest, Digest: built.Digest, Size: r.size(t, spelling, built.Digest),
		Platform: &v1.Platform{OS: "linux", Architecture: "amd64"},
	}}}
	index.SchemaVersion = 2
	r.put(t, "/v2/"+spelling+"/manifests/index", v1.MediaTypeImageIndex, mustJSON(t, index), http.StatusCreated)
	Exec(t, "crane", "validate", "--remote", r.Ref(spelling+":index"))
	index.Manifests[0].Digest = digest.FromString("nothing")
	r.put(t, "/v2/"+spelling+"/manifests/bad", v1.MediaTypeImageIndex, mustJSON(t, index), http.StatusBadRequest)
	if got := r.tagsOf(t, spelling); !slices.Equal(got, []string{revision, "index", "latest", "more", "same"}) {
		t.Errorf("the tags are %q", got)
	}
	if got := r.tagsOf(t, canonical); !slices.Equal(got, tags) {
		t.Errorf("the canonical tags are %q, were %q", got, tags)
	}
	// What is deleted is what was pushed.
	for _, reference := range []string{"more", "same", "index", "latest"} {
		Exec(t, "crane", "delete", r.Ref(spelling+":"+reference))
	}
	if again := r.Pull(t, spelling); again.Digest != built.Digest {
		t.Errorf("the image is %s, want the built one", again.Digest)
	}
	if _, stderr, err := TryExec(t.Context(), "crane", "delete", r.Ref(spelling+":"+revision)); err == nil {
		t.Errorf("a built tag of the canonical name was deleted: %s", stderr)
	}
	if catalog := strings.Fields(Exec(t, "crane", "catalog", r.Addr)); !slices.Contains(catalog, canonical) {
		t.Errorf("the catalog is %q", catalog)
	}
}

// size is that of a manifest.
func (r *Registry) size(t *testing.T, name string, manifest digest.Digest) int64 {
	t.Helper()
	status, _, body, err := r.Get(
		t.Context(), "/v2/"+name+"/manifests/"+manifest.String(), v1.MediaTypeImageManifest,
	)
	if err != nil || status != http.StatusOK {
		t.Fatalf("manifest %s of %s: %d, %v", manifest, name, status, err)
	}
	return int64(len(body))
}

// put pushes a manifest.
func (r *Registry) put(t *testing.T, path, mediaType, body string, want int) {
	t.Helper()
	request, err := http.NewRequestWithContext(
		t.Context(), http.MethodPut, "http://"+r.Addr+path, strings.NewReader(body),
	)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", mediaType)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != want {
		t.Errorf("a push to %s is answered with %d, want %d", path, response.StatusCode, want)
	}
}
