package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The canonical name of an image and another spelling of it.
const (
	canonical = "quick/reader"
	spelling  = "reader/quick"
)

// ask makes a request as a user who has a token for all that the user may do.
func (s tokenServer) ask(t *testing.T, r *Registry, user, method, path string) (int, http.Header, []byte) {
	t.Helper()
	var access []any
	for name, actions := range s.may[user] {
		access = append(access, map[string]any{"type": "repository", "name": name, "actions": actions})
	}
	token, err := s.token(user, access)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, body
}

// TestSpellingsAreSeparate has a user who may read one spelling, and another one who has pushed to the
// canonical name. The first gets what Nix has built, and nothing of what was pushed: neither before it
// was built nor after it, by whatever way.
func TestSpellingsAreSeparate(t *testing.T) {
	t.Parallel()
	pull, push := []string{"pull"}, []string{"pull", "push"}
	r, tokens := startWithTokens(t, "jwks", map[string]map[string][]string{
		"ada":     {spelling: pull, "ada/own": push},
		"charles": {canonical: push},
	}, "nix.packages.path="+FreshPackages(t))
	pushAs(t, r, "charles", canonical+":secret", canonical+":latest")

	checkSeparate(t, r, tokens, "before anything was built")
	status, header, body := tokens.ask(t, r, "ada", http.MethodGet, "/v2/"+spelling+"/manifests/latest")
	_, pushed, _ := tokens.ask(t, r, "charles", http.MethodGet, "/v2/"+canonical+"/manifests/latest")
	const name = "Docker-Content-Digest"
	if status != http.StatusOK || header.Get(name) == pushed.Get(name) {
		t.Fatalf("the built image is answered with %d %v %s", status, header, body)
	}
	checkSeparate(t, r, tokens, "after it was built")
	var built v1.Manifest
	if err := json.Unmarshal(body, &built); err != nil {
		t.Fatal(err)
	}
	for _, blob := range append([]v1.Descriptor{built.Config}, built.Layers...) {
		for path, want := range map[string]int{
			"/v2/" + spelling + "/blobs/" + blob.Digest.String(): http.StatusOK,
			"/v2/ada/own/blobs/uploads/?" + mountOf(blob.Digest): http.StatusCreated,
		} {
			method := http.MethodGet
			if want == http.StatusCreated {
				method = http.MethodPost
			}
			if status, _, _ := tokens.ask(t, r, "ada", method, path); status != want {
				t.Errorf("%s is answered with %d, want %d", path, status, want)
			}
		}
	}
	r.Stop()
	r.Start()
	checkSeparate(t, r, tokens, "after a restart")
	if stored := r.repositories(t); !slices.Equal(stored, []string{"ada/own", canonical}) {
		t.Errorf("the repositories are %q", stored)
	}
}

// mountOf asks for a blob of the spelling.
func mountOf(blob digest.Digest) string { return "mount=" + blob.String() + "&from=" + spelling }

// pushAs pushes an image with one layer as a user whose password is "secret".
func pushAs(t *testing.T, r *Registry, user string, images ...string) {
	t.Helper()
	Needs(t, "crane")
	config := Dir(t)
	Write(t, filepath.Join(config, "config.json"), mustJSON(t, map[string]any{"auths": map[string]any{
		r.Addr: map[string]any{"username": user, "password": "secret"},
	}}))
	layer := filepath.Join(Dir(t), "layer.tar")
	Exec(t, "tar", "cf", layer, "-C", config, "config.json")
	for _, image := range images {
		Exec(
			t, "env", "DOCKER_CONFIG="+config, "crane", "append", "--oci-empty-base", "--new_layer", layer,
			"--new_tag", r.Ref(image),
		)
	}
}

// checkSeparate has ada try to get the image that charles has pushed.
func checkSeparate(t *testing.T, r *Registry, tokens tokenServer, when string) {
	t.Helper()
	status, _, body := tokens.ask(t, r, "charles", http.MethodGet, "/v2/"+canonical+"/manifests/secret")
	var secret v1.Manifest
	if err := json.Unmarshal(body, &secret); err != nil || status != http.StatusOK {
		t.Fatalf("%s: what was pushed is answered with %d %s", when, status, body)
	}
	manifest := digest.FromBytes(body).String()
	paths := []string{"manifests/secret", "manifests/" + manifest, "blobs/" + manifest}
	for _, blob := range append(secret.Layers, secret.Config) {
		paths = append(paths, "blobs/"+blob.Digest.String(), "manifests/"+blob.Digest.String())
		path := "/v2/ada/own/blobs/uploads/?" + mountOf(blob.Digest)
		if status, _, _ := tokens.ask(t, r, "ada", http.MethodPost, path); status != http.StatusAccepted {
			t.Errorf("%s: %s is answered with %d, want an upload", when, path, status)
		}
	}
	for _, path := range paths {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			status, _, body := tokens.ask(t, r, "ada", method, "/v2/"+spelling+"/"+path)
			if status != http.StatusNotFound || strings.Contains(string(body), canonical) {
				t.Errorf("%s: %s %s is answered with %d %s", when, method, path, status, body)
			}
			status, _, _ = tokens.ask(t, r, "ada", method, "/v2/"+canonical+"/"+path)
			if status != http.StatusUnauthorized {
				t.Errorf("%s: %s %s of the canonical name is answered with %d", when, method, path, status)
			}
		}
	}
	_, _, body = tokens.ask(t, r, "ada", http.MethodGet, "/v2/"+spelling+"/tags/list")
	if strings.Contains(string(body), "secret") || !strings.Contains(string(body), `"latest"`) {
		t.Errorf("%s: the tags are %s", when, body)
	}
}
