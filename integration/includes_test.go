package integration

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestIncludeSettings pulls images that include a package with settings. Its environment and labels
// count, below those of what was asked for. How the image runs is not for it to say.
func TestIncludeSettings(t *testing.T) {
	t.Parallel()
	packages := freshSet(t, "accounts")
	r := StartRegistry(t, "nix.packages.path="+packages, `nix.include=["settings", "no-such-package"]`)
	for _, test := range []struct {
		image        string
		env          string
		label, asked string
	}{
		{"asroot", "FROM=settings ONLY=settings", "settings", ""},
		{"asked", "FROM=asked ONLY=settings", "settings", "asked"},
		{"asked/busybox", "FROM=asked ONLY=settings", "settings", "asked"},
	} {
		image := r.Pull(t, test.image)
		config := r.Verify(t, image, Closure(t, packages, append(strings.Split(test.image, "/"), "settings")...)).Config
		env := slices.DeleteFunc(config.Env, func(variable string) bool { return strings.HasPrefix(variable, "PATH=") })
		if got := strings.Join(env, " "); got != test.env || config.Labels["from"] != test.label ||
			config.Labels["asked"] != test.asked {
			t.Errorf("%s has the environment %s and the labels %v", test.image, got, config.Labels)
		}
		if strings.Contains(strings.Join(config.Cmd, ""), "none") || config.User == "ghost" {
			t.Errorf("%s runs %q as %q", test.image, config.Cmd, config.User)
		}
	}
}

// TestFaultyInclude serves no images while an include can't be had. The operator is told why before
// anybody asks, once; clients are told that it is not for them to mend.
func TestFaultyInclude(t *testing.T) {
	t.Parallel()
	r := NewRegistry(t, "nix.packages.path="+freshSet(t, "accounts"), `nix.include=["settings", "faulty"]`)
	const reason = "passthru.image.colour is not a key of an image"
	if _, stderr, err := r.checkConfig(); err == nil ||
		!strings.Contains(stderr, "include: faulty: "+reason) {
		t.Errorf("--check ends with %v: %s", err, stderr)
	}
	r.Start()
	r.AwaitLog("no image can be made", 1)
	for range 3 {
		status, header, body, err := r.Get(t.Context(), "/v2/busybox/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" ||
			!strings.Contains(string(body), "includes faulty, which can't be had") || strings.Contains(string(body), reason) {
			t.Errorf("the answer is %d, %v: %s", status, err, body)
		}
	}
	// What a client asked for itself is its own matter.
	status, _, body, err := r.Get(t.Context(), "/v2/faulty/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), reason) {
		t.Errorf("faulty itself is answered with %d, %v: %s", status, err, body)
	}
	if said := strings.Count(r.Log(), "include: faulty: "+reason); said != 1 {
		t.Errorf("the log says it %d times", said)
	}
}
