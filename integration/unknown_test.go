package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestUnknownNames asks for names that nobody has. Clients can think of any number of them, so they
// leave nothing in the storage, and cost an evaluation once.
func TestUnknownNames(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	r.Pull(t, "quick")
	ask := func() {
		t.Helper()
		for n := range 5 {
			path := fmt.Sprintf("/v2/nobody-has-%d/manifests/latest", n)
			status, _, body, err := r.Get(t.Context(), path, v1.MediaTypeImageManifest)
			if err != nil || status != http.StatusNotFound {
				t.Errorf("%s: %d %s, %v", path, status, body, err)
			}
		}
	}
	state := filepath.Join(r.storage(), "nix", "v1")
	before := len(files(t, state))
	ask()
	programs := len(r.Programs())
	ask()
	if again := len(r.Programs()) - programs; again != 0 {
		t.Errorf("%d programs were started for names that were asked for before", again)
	}
	if now := len(files(t, state)); now != before {
		t.Errorf("the storage has %d records, and had %d", now, before)
	}
	r.Stop()
	r.Start()
	ask()
	r.Pull(t, "quick")
}
