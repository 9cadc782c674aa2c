package integration

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Image is a manifest in the form that a client gets.
type Image struct {
	Name   string
	Digest digest.Digest
	v1.Manifest
}

// Get answers a GET of a path, /v2/…, without following redirects. Accept are media types.
func (r *Registry) Get(
	ctx context.Context, path string, accept ...string,
) (status int, header http.Header, body []byte, err error) {
	return r.Ask(ctx, path, http.Header{"Accept": {strings.Join(accept, ", ")}})
}

// Ask is Get with any headers.
func (r *Registry) Ask(
	ctx context.Context, path string, with http.Header,
) (status int, header http.Header, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+path, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header = with
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header, body, err
}

// Pull gets the manifest of name:latest; see PullTag.
func (r *Registry) Pull(t testing.TB, name string) Image {
	t.Helper()
	return r.PullTag(t, name, "latest")
}

// PullTag gets a manifest as a client does, following redirects, and checks its digest.
func (r *Registry) PullTag(t testing.TB, name, tag string) Image {
	t.Helper()
	request, err := http.NewRequestWithContext(
		t.Context(), http.MethodGet, "http://"+r.Addr+"/v2/"+name+"/manifests/"+tag, nil,
	)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("pulling %s: %s %s %v", name, response.Status, body, err)
	}
	image := Image{Name: name, Digest: digest.FromBytes(body)}
	if got := response.Header.Get("Docker-Content-Digest"); got != image.Digest.String() {
		t.Fatalf("pulling %s: the header says %s, the manifest's digest is %s", name, got, image.Digest)
	}
	if err := json.Unmarshal(body, &image.Manifest); err != nil {
		t.Fatalf("pulling %s: %v", name, err)
	}
	return image
}

// Blob gets a blob of an image and checks its digest and size.
func (r *Registry) Blob(t testing.TB, image Image, blob v1.Descriptor) []byte {
	t.Helper()
	status, _, body, err := r.Get(t.Context(), "/v2/"+image.Name+"/blobs/"+blob.Digest.String())
	if err != nil || status != http.StatusOK {
		t.Fatalf("getting blob %s of %s: status %d, %v", blob.Digest, image.Name, status, err)
	}
	if digest.FromBytes(body) != blob.Digest || int64(len(body)) != blob.Size {
		t.Fatalf(
			"blob %s of %s has %d bytes with digest %s, want %d bytes", blob.Digest, image.Name, len(body),
			digest.FromBytes(body), blob.Size,
		)
	}
	return body
}

// Linked waits until the layers of all images are linked into their repositories. Linking begins
// when an image is served.
func (r *Registry) Linked(t testing.TB) {
	t.Helper()
	Eventually(t, commandTime, "all layers are linked", func() bool {
		owed, err := filepath.Glob(filepath.Join(r.Dir, "storage", "nix", "v1", "links", "*"))
		return err == nil && len(owed) == 0
	})
}

// CheckWhole checks that all blobs of an image are there, by digest.
func (r *Registry) CheckWhole(t testing.TB, image Image) {
	t.Helper()
	r.Blob(t, image, image.Config)
	for _, layer := range image.Layers {
		r.Blob(t, image, layer)
	}
}
