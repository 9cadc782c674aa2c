package integration

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestNothingIsBuilt serves the packages that a binary cache has, and refuses all others before any
// derivation of theirs is written, with a Nix store and without.
func TestNothingIsBuilt(t *testing.T) {
	t.Parallel()
	for _, storeless := range []string{"false", "true"} {
		packages := FreshPackages(t)
		cache := cacheOf(t, packages, "quick")
		r := StartRegistry(
			t,
			cache.settings(
				"nix.packages.path="+packages, "nix.build.local=false", "nix.build.hold=300s",
				"nix.build.storeless="+storeless, "nix.include=[]",
			)...)
		r.CheckWhole(t, r.Pull(t, "quick"))
		for range 2 {
			got := r.answer(t, "quick/fails")
			if got.status != http.StatusForbidden ||
				!strings.Contains(got.message, "would have to be built, and build.local of this registry is off") {
				t.Errorf("storeless %s: the answer is %v", storeless, got)
			}
		}
		if slices.Contains(r.Programs(), "nix") || strings.Contains(r.Log(), logBuilding) {
			t.Errorf("something was built, or was about to be: %q", r.Programs())
		}
	}
}
