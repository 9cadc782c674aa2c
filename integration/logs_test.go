package integration

import (
	"net/http"
	"strings"
	"testing"
)

// TestLogsToClients has a build fail for clients that are told the last lines of builds, and for
// those that are not.
func TestLogsToClients(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	for setting, shown := range map[string]bool{"": true, "nix.build.logtoclients=false": false} {
		settings := []string{"nix.packages.path=" + packages}
		if setting != "" {
			settings = append(settings, setting)
		}
		r := StartRegistry(t, settings...)
		got := r.answer(t, "fails")
		if got.status != http.StatusForbidden ||
			!strings.Contains(got.message, "building fails-1.0 failed with exit code 1") ||
			strings.Contains(got.message, "no such luck") != shown {
			t.Errorf("%s: the answer is %v", setting, got)
		}
		if !shown {
			r.AwaitLog("no such luck", 1)
		}
	}
}
