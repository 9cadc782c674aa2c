package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// An s3 is a server of Amazon's protocol with one bucket.
type s3 struct {
	*traffic
	server *httptest.Server
}

func newS3(t *testing.T) *s3 {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	s := &s3{traffic: &traffic{store: gofakes3.New(backend).Server(), classify: classifyS3}}
	s.server = httptest.NewServer(s.traffic)
	t.Cleanup(s.server.Close)
	return s
}

// classifyS3 tells what a request is for.
func classifyS3(request *http.Request) (kind, object string) {
	query := request.URL.Query()
	object = strings.TrimPrefix(strings.TrimPrefix(request.URL.Path, "/"+bucket), "/")
	switch {
	case request.Method == http.MethodGet && object == "":
		return "list", query.Get("prefix")
	case request.Method == http.MethodGet:
		return "read", object
	case request.Method == http.MethodHead:
		return "stat", object
	case request.Method == http.MethodDelete || query.Has("delete"):
		return "delete", object
	case query.Has("partNumber"):
		return "chunk", object
	case query.Has("uploads"):
		return "begin", object
	case query.Has("uploadId"):
		return "write", object
	case request.Header.Get("X-Amz-Copy-Source") != "":
		return "copy", object
	}
	return "write", object
}

// Start configures and starts a registry on the bucket.
func (s *s3) Start(t *testing.T, settings ...string) *Registry {
	t.Helper()
	return StartRegistry(t, append([]string{storageOn(t, "s3", map[string]any{
		"bucket": bucket, "region": "us-east-1", "regionendpoint": s.server.URL, "forcepathstyle": true,
		"secure": false, "accesskey": "key", "secretkey": "secret",
	})}, settings...)...)
}

// Clients get blobs from the bucket, or from the registry if it is told so.
func TestS3(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	r := s.Start(t)
	s.take()
	built := r.Pull(t, "hello")
	t.Logf("build, %d layers: %v", len(built.Layers), s.take())
	r.Pull(t, "hello")
	t.Logf("an image that is there: %v", s.take())
	for _, blob := range append([]v1.Descriptor{built.Config}, built.Layers...) {
		status, header, _, err := r.Get(t.Context(), "/v2/hello/blobs/"+blob.Digest.String())
		if err != nil || status != http.StatusTemporaryRedirect {
			t.Fatalf("the answer is %d, %v, want a redirect", status, err)
		}
		location, err := url.Parse(header.Get("Location"))
		if err != nil || location.Query().Get("X-Amz-Signature") == "" {
			t.Errorf("the redirect is to %q, %v, want a signed URL", header.Get("Location"), err)
		}
		response, err := http.Get(location.String())
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || digest.FromBytes(body) != blob.Digest {
			t.Errorf(
				"%s leads to %d bytes with digest %s, %v, want %s", location, len(body),
				digest.FromBytes(body), err, blob.Digest,
			)
		}
	}
	s.Start(t, "storage.redirect.disable=true").CheckWhole(t, built)
}

// Registries on one bucket use each other's layers.
func TestS3Shared(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	checkShared(t, s.traffic, s.Start(t), s.Start(t))
}
