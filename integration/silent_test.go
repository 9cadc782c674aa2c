package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestSilentRemote pulls while the channel's server takes questions and does not answer them. What is
// stored is served, and says that there may be a newer one. The registry waits on behind.
func TestSilentRemote(t *testing.T) {
	t.Parallel()
	old, moved := strings.Repeat("a", 40), strings.Repeat("b", 40)
	mirror := serveChannel(t, FreshPackages(t), old)
	r := StartRegistry(t, "nix.packages="+mirror.packages(), "nix.refresh=1ns")
	r.PullTag(t, "quick", "latest")

	mirror.moveTo(moved)
	answer := mirror.keepSilent()
	defer answer() // before it, the mirror reports a registry that has given up
	for range 3 {
		status, header, _, err := r.Get(t.Context(), "/v2/quick/manifests/latest", v1.MediaTypeImageManifest)
		warnings := strings.Join(header.Values("Warning"), " ")
		if err != nil || status != http.StatusOK || !strings.Contains(warnings, "newer") {
			t.Errorf("%d, %q, %v", status, warnings, err)
		}
	}
	answer()
	Eventually(t, time.Minute, "what the server answers is believed", func() bool {
		return r.PullTag(t, "quick", "latest").Annotations[v1.AnnotationRevision] == moved
	})
}
