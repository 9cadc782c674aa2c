package integration

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A tokenUser is a user of a registry with tokens.
type tokenUser struct {
	r      *Registry
	tokens tokenServer
	name   string
}

// do sends a request with a token for what the user may do in repositories, and returns the
// answer's status and header.
func (u tokenUser) do(
	t *testing.T, method, target string, body []byte, contentType string, repositories ...string,
) (int, http.Header) {
	t.Helper()
	access := []any{}
	for _, repository := range repositories {
		access = append(
			access,
			map[string]any{"type": "repository", "name": repository, "actions": u.tokens.may[u.name][repository]},
		)
	}
	token, err := u.tokens.token(u.name, access)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(target, "/") {
		target = "http://" + u.r.Addr + target
	}
	request, err := http.NewRequestWithContext(t.Context(), method, target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", contentType)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	return response.StatusCode, response.Header
}

// push uploads a blob.
func (u tokenUser) push(t *testing.T, repository string, blob []byte) digest.Digest {
	t.Helper()
	status, header := u.do(t, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil, "", repository)
	if status != http.StatusAccepted {
		t.Fatalf("beginning an upload is answered with %d", status)
	}
	sum := digest.FromBytes(blob)
	if status, _ := u.do(
		t, http.MethodPut, header.Get("Location")+"&digest="+url.QueryEscape(sum.String()), blob,
		"application/octet-stream", repository,
	); status != http.StatusCreated {
		t.Fatalf("an upload is answered with %d", status)
	}
	return sum
}

// TestBlobsOfOthers has a user ask for what another one has pushed, in all repositories that he may
// use, and for a built image that he may not pull.
func TestBlobsOfOthers(t *testing.T) {
	t.Parallel()
	r, tokens := startWithTokens(t, "jwks", map[string]map[string][]string{
		"alice": {"private/app": {"pull", "push"}, "hello/tree": {"pull"}},
		"bob":   {"hello": {"pull"}, "bob/own": {"pull", "push"}},
	})
	alice, bob := tokenUser{r, tokens, "alice"}, tokenUser{r, tokens, "bob"}
	const secret = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Env":["PASSWORD=secret"]}}`
	config := alice.push(t, "private/app", []byte(secret))
	manifest := []byte(mustJSON(t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: config, Size: int64(len(secret))},
	}))
	if status, _ := alice.do(
		t, http.MethodPut, "/v2/private/app/manifests/latest", manifest, v1.MediaTypeImageManifest,
		"private/app",
	); status != http.StatusCreated {
		t.Fatalf("pushing a manifest is answered with %d", status)
	}
	built, _ := alice.do(t, http.MethodGet, "/v2/hello/tree/manifests/latest", nil, "", "hello/tree")
	if built != http.StatusOK {
		t.Fatalf("building hello/tree is answered with %d", built)
	}
	if status, _ := bob.do(t, http.MethodGet, "/v2/hello/manifests/latest", nil, "", "hello"); status != http.StatusOK {
		t.Fatalf("building hello is answered with %d", status)
	}
	if status, _ := alice.do(
		t, http.MethodGet, "/v2/private/app/blobs/"+config.String(), nil, "", "private/app",
	); status != http.StatusOK {
		t.Fatalf("the owner's blob is answered with %d", status)
	}
	sum := digest.FromBytes(manifest).String()
	for _, test := range []struct {
		name, method, path string
		want               int
	}{
		{"in its repository", http.MethodGet, "/v2/private/app/blobs/" + config.String(), http.StatusUnauthorized},
		{"its manifest", http.MethodGet, "/v2/private/app/manifests/latest", http.StatusUnauthorized},
		{"its tags", http.MethodGet, "/v2/private/app/tags/list", http.StatusUnauthorized},
		{"in a built image's", http.MethodGet, "/v2/hello/blobs/" + config.String(), http.StatusNotFound},
		{"whether it is there", http.MethodHead, "/v2/hello/blobs/" + config.String(), http.StatusNotFound},
		{"in his own", http.MethodGet, "/v2/bob/own/blobs/" + config.String(), http.StatusNotFound},
		{"its manifest in a built image's", http.MethodGet, "/v2/hello/manifests/" + sum, http.StatusNotFound},
		{"its manifest in his own", http.MethodGet, "/v2/bob/own/manifests/" + sum, http.StatusNotFound},
		{
			"a mount from its repository", http.MethodPost,
			"/v2/bob/own/blobs/uploads/?mount=" + config.String() + "&from=private/app",
			http.StatusUnauthorized,
		},
		{ // to be uploaded
			"a mount from his own", http.MethodPost,
			"/v2/bob/own/blobs/uploads/?mount=" + config.String() + "&from=bob/own", http.StatusAccepted,
		},
		{
			"a mount from a built image's", http.MethodPost,
			"/v2/bob/own/blobs/uploads/?mount=" + config.String() + "&from=hello", http.StatusAccepted,
		},
		{
			"a built image that he may not pull", http.MethodGet, "/v2/hello/tree/manifests/latest",
			http.StatusUnauthorized,
		},
		{"one that nobody has built", http.MethodGet, "/v2/tree/manifests/latest", http.StatusUnauthorized},
		{"all repositories", http.MethodGet, "/v2/_catalog", http.StatusUnauthorized},
	} {
		if status, _ := bob.do(
			t, test.method, test.path, nil, "", "hello", "bob/own", "private/app", "hello/tree", "tree",
		); status != test.want {
			t.Errorf("%s: the answer is %d, want %d", test.name, status, test.want)
		}
	}
	if strings.Contains(r.Log(), "image=tree") {
		t.Error("an image was built for who may not pull it")
	}
	// A manifest that names it can't be pushed, either: it would give it away.
	const latest = "/v2/bob/own/manifests/latest"
	status, _ := bob.do(t, http.MethodPut, latest, manifest, v1.MediaTypeImageManifest, "bob/own")
	if status != http.StatusBadRequest && status != http.StatusNotFound {
		t.Errorf("a manifest that names another's blob is answered with %d", status)
	}
}
