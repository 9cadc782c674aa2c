package integration

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A web page of another site gets images that are stored, and has nothing built.
func TestPageOfAnotherSite(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	pages := []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"no-cors"}},
		{"Origin": {"https://evil.example"}},
	}
	for _, page := range pages {
		status, _, body, err := r.Ask(t.Context(), "/v2/quick/manifests/latest", page)
		if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), "web page of another site") {
			t.Errorf("%v is answered with %d %s, %v", page, status, body, err)
		}
	}
	if strings.Contains(r.Log(), logBuilt) || strings.Contains(r.Log(), logBuilding) {
		t.Error("something was built for a page of another site")
	}
	image := r.Pull(t, "quick")
	for _, page := range pages {
		page.Set("Accept", v1.MediaTypeImageManifest)
		status, header, body, err := r.Ask(t.Context(), "/v2/quick/manifests/latest", page)
		if err != nil || status != http.StatusOK || header.Get("Docker-Content-Digest") != image.Digest.String() {
			t.Errorf("what is stored is answered with %d %s, %v", status, body, err)
		}
	}
}
