package integration

import (
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReadOnly switches a registry that has images to read-only mode.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo", "docker", "crane")
	packages := FreshPackages(t)
	r := StartRegistry(t, "nix.packages.path="+packages)
	built := r.Pull(t, "quick")
	r.Pull(t, "sleeps.s0")
	if status := ask(t, r, "sleeps.s0", "Accept", dockerManifest); status != http.StatusOK {
		t.Fatalf("Docker's form is answered with %d", status)
	}
	r.Linked(t)
	before := files(t, r.storage())
	reconfigure(t, r, "storage.maintenance.readonly.enabled=true")
	r.Start()

	t.Run("built", func(t *testing.T) {
		if again := r.Pull(t, "quick"); again.Digest != built.Digest {
			t.Errorf("it has digest %s, had %s", again.Digest, built.Digest)
		}
		Exec(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+r.Ref("quick"), destination(t))
		Exec(t, "docker", "pull", "--quiet", r.Ref("quick"))
	})
	t.Run("not built", func(t *testing.T) {
		refused(
			t, r, regexp.MustCompile("read-only"), "skopeo", "inspect", "--tls-verify=false",
			"docker://"+r.Ref("quick/sleeps.s0"),
		)
		refused(t, r, regexp.MustCompile("read-only"), "docker", "pull", "--quiet", r.Ref("quick/sleeps.s0"))
	})
	t.Run("for clients from before OCI", func(t *testing.T) {
		for _, name := range []string{"sleeps.s0", "quick"} { // the latter for the first time
			made := r.form(t, name, "latest", dockerManifest, dockerManifest)
			r.form(t, name, made.digest.String(), dockerManifest, dockerManifest)
		}
	})
	t.Run("push", func(t *testing.T) {
		_, stderr, err := TryExec(t.Context(), "crane", "copy", r.Ref("quick"), r.Ref("team/quick:v1"))
		if err == nil || !strings.Contains(stderr, "405") {
			t.Errorf("a push: %v %s", err, stderr)
		}
	})
	// The older image is better than none.
	Write(t, filepath.Join(packages, "text"), "changed")
	if old := r.Pull(t, "quick"); old.Digest != built.Digest {
		t.Errorf("the package set has changed, and the image is %s, was %s", old.Digest, built.Digest)
	}
	if after := files(t, r.storage()); !slices.Equal(after, before) {
		t.Errorf("the storage had %d files, has %d", len(before), len(after))
	}
}
