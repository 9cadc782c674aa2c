package integration

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	dockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
	oldDocker  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// A form is what a client got.
type form struct {
	name   string // of the repository
	header http.Header
	body   []byte
	digest digest.Digest
}

// form pulls name:reference with an Accept header, and checks the answer's type, what depends on the
// type, and that HEAD says the same.
func (r *Registry) form(t *testing.T, name, reference, accept, mediaType string) form {
	t.Helper()
	path := "/v2/" + name + "/manifests/" + reference
	status, header, body, err := r.Ask(t.Context(), path, http.Header{"Accept": {accept}})
	if err != nil || status != http.StatusOK || header.Get("Content-Type") != mediaType {
		t.Fatalf("%s for %q: %d %v, want a %s: %v\n%s", path, accept, status, header, mediaType, err, body)
	}
	sum := digest.FromBytes(body)
	if header.Get("Docker-Content-Digest") != sum.String() || !slices.Contains(header.Values("Vary"), "Accept") {
		t.Errorf("%s for %q is %s, the header is %v", path, accept, sum, header)
	}
	if reference == "latest" { // what comes by its digest has no warning of what it was built from
		checkHead(t, r, path, accept)
	}
	return form{name, header, body, sum}
}

// manifests are those of an index or a list.
func (f form) manifests(t *testing.T) []v1.Descriptor {
	t.Helper()
	var index v1.Index
	if err := json.Unmarshal(f.body, &index); err != nil {
		t.Fatal(err)
	}
	return index.Manifests
}

// Whatever a client accepts, it gets an image that it can take, and the same one by its digest.
func TestForms(t *testing.T) {
	t.Parallel()
	r := StartRegistry(
		t, "nix.packages.path="+freshSet(t, "platforms"), `nix.platforms=["linux/amd64", "linux/arm64"]`,
	)
	var pinned []form // by some client
	t.Run("of one platform", func(t *testing.T) {
		stored := r.form(t, "amd64/both", "latest", v1.MediaTypeImageManifest, v1.MediaTypeImageManifest)
		docker := r.form(t, "amd64/both", "latest", dockerManifest, dockerManifest)
		index := r.form(t, "amd64/both", "latest", v1.MediaTypeImageIndex, v1.MediaTypeImageIndex)
		list := r.form(t, "amd64/both", "latest", dockerList, dockerList)
		pinned = append(pinned, docker, index, list)
		for of, in := range map[digest.Digest]form{stored.digest: index, docker.digest: list} {
			if one := in.manifests(t); len(one) != 1 || one[0].Digest != of || one[0].Platform.Architecture != "amd64" {
				t.Errorf("%s has %+v, want %s", in.digest, one, of)
			}
		}
		for _, accept := range []string{"", "*/*", "application/json", oldDocker, "text/html, */*;q=0.8"} {
			if got := r.form(t, "amd64/both", "latest", accept, dockerManifest); got.digest != docker.digest {
				t.Errorf("for %q, it is %s, want %s", accept, got.digest, docker.digest)
			}
		}
	})
	t.Run("of two platforms", func(t *testing.T) {
		stored := r.form(t, "both", "latest", v1.MediaTypeImageIndex, v1.MediaTypeImageIndex)
		list := r.form(t, "both", "latest", dockerManifest+","+dockerList, dockerList)
		amd64 := r.form(t, "both", "latest", dockerManifest, dockerManifest)
		inList, inIndex := list.manifests(t), stored.manifests(t)
		if len(inList) != 2 || inList[0].Digest != amd64.digest || inList[1].Platform.Architecture != "arm64" {
			t.Fatalf("the list has %+v", inList)
		}
		// Nobody has pulled the one for arm64 but by its digest.
		arm64 := r.form(t, "both", inList[1].Digest.String(), dockerManifest, dockerManifest)
		pinned = append(pinned, list, amd64, arm64)
		for _, accept := range []string{"", "*/*", "application/json", oldDocker, v1.MediaTypeImageManifest} {
			mediaType, want := dockerManifest, inList[0].Digest
			if accept == v1.MediaTypeImageManifest {
				mediaType, want = accept, inIndex[0].Digest
			}
			got := r.form(t, "both", "latest", accept, mediaType)
			warnings := strings.Join(got.header.Values("Warning"), "; ")
			if got.digest != want || !strings.Contains(warnings, "linux/amd64, of those for linux/amd64, linux/arm64") {
				t.Errorf("for %q it is %s, want %s; the warnings are %s", accept, got.digest, want, warnings)
			}
		}
	})
	t.Run("of another platform alone", func(t *testing.T) {
		r.form(t, "arm", "latest", v1.MediaTypeImageIndex, v1.MediaTypeImageIndex)
		list := r.form(t, "arm", "latest", dockerList, dockerList)
		if one := list.manifests(t); len(one) != 1 || one[0].Platform.Architecture != "arm64" {
			t.Errorf("the list has %+v", one)
		}
		for _, accept := range []string{"", dockerManifest, v1.MediaTypeImageManifest} {
			status, header, body, err := r.Ask(t.Context(), "/v2/arm/manifests/latest", http.Header{"Accept": {accept}})
			if err != nil || status != http.StatusNotFound || header.Get("Vary") != "Accept" ||
				!strings.Contains(string(body), "for linux/arm64 alone") ||
				!strings.Contains(string(body), v1.MediaTypeImageIndex) {
				t.Errorf("for %q, the answer is %d %v %s, %v", accept, status, header, body, err)
			}
		}
		r.form(t, "arm64/arm", "latest", dockerManifest, dockerManifest) // whoever chooses the platform gets it
	})
	// Nothing of this is stored, so garbage collection takes nothing.
	r.Stop()
	r.GarbageCollect("-m")
	r.Start()
	for _, made := range pinned {
		mediaType := made.header.Get("Content-Type")
		again := r.form(t, made.name, made.digest.String(), mediaType, mediaType)
		if !bytes.Equal(again.body, made.body) {
			t.Errorf("%s@%s has changed", made.name, made.digest)
		}
	}
}
