package integration

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPlatforms serves indexes, with what becomes of platforms that can't be had.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	packages := freshSet(t, "platforms")
	r := StartRegistry(
		t, "nix.packages.path="+packages, `nix.platforms=["linux/amd64", "linux/arm64"]`, "nix.refresh=1h",
	)

	index := func(name string) (v1.Index, http.Header) {
		t.Helper()
		status, header, body, err := r.Get(
			t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageIndex, v1.MediaTypeImageManifest,
		)
		if err != nil || status != http.StatusOK || header.Get("Content-Type") != v1.MediaTypeImageIndex {
			t.Fatalf("%s: status %d, %s, %v: %s", name, status, header.Get("Content-Type"), err, body)
		}
		var index v1.Index
		if err := json.Unmarshal(body, &index); err != nil {
			t.Fatal(err)
		}
		return index, header
	}
	platforms := func(index v1.Index) (names []string) {
		for _, m := range index.Manifests {
			names = append(names, m.Platform.OS+"/"+m.Platform.Architecture)
		}
		return names
	}

	t.Run("both", func(t *testing.T) {
		both, _ := index("both")
		if got := platforms(both); !slices.Equal(got, []string{"linux/amd64", "linux/arm64"}) {
			t.Errorf("the index has %q", got)
		}
		for _, m := range both.Manifests {
			image := r.PullTag(t, "both", m.Digest.String())
			r.CheckWhole(t, image)
			var config v1.Image
			if err := json.Unmarshal(r.Blob(t, image, image.Config), &config); err != nil {
				t.Fatal(err)
			}
			if config.Architecture != m.Platform.Architecture {
				t.Errorf("the image for %s says it is for %s", m.Platform.Architecture, config.Architecture)
			}
		}
		for _, arch := range []string{"amd64", "arm64"} {
			if got := Exec(
				t, "skopeo", "inspect", "--tls-verify=false", "--override-arch", arch, "--format",
				"{{.Architecture}}", "docker://"+r.Ref("both"),
			); got != arch {
				t.Errorf("skopeo gets %s for %s", got, arch)
			}
		}
		if first := r.Pull(t, "both"); first.Digest != both.Manifests[0].Digest {
			t.Errorf("a client without indexes gets %s, want %s", first.Digest, both.Manifests[0].Digest)
		}
		if status, header, body, err := r.Get(t.Context(), "/v2/both/manifests/latest"); err != nil ||
			status != http.StatusOK ||
			!strings.Contains(header.Get("Content-Type"), "docker") {
			t.Errorf("an old client gets %d %s, %v: %s", status, header.Get("Content-Type"), err, body)
		}
		if arm := r.Pull(t, "arm64/both"); arm.Digest == both.Manifests[0].Digest {
			t.Error("arm64/both is the image for amd64")
		}
	})
	t.Run("one", func(t *testing.T) {
		one, header := index("one")
		if got := platforms(one); !slices.Equal(got, []string{"linux/amd64"}) ||
			one.Annotations["io.github.nixery-registry.missing-platforms"] != "linux/arm64" {
			t.Errorf("the index has %q, and says %v", got, one.Annotations)
		}
		if warnings := strings.Join(header.Values("Warning"), "; "); !strings.Contains(warnings, "linux/arm64") {
			t.Errorf("the warnings are %s", warnings)
		}
		programs := r.Programs()
		index("one")
		if now := r.Programs(); !slices.Equal(now, programs) {
			t.Errorf("before it is time to try again, programs were started: %q", now[len(programs):])
		}
		status, _, body, err := r.Get(t.Context(), "/v2/arm64/one/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil ||
			status != http.StatusForbidden ||
			!strings.Contains(string(body), "for x86_64-linux alone") {
			t.Errorf("arm64/one is answered with %d %s, %v", status, body, err)
		}
	})
	t.Run("native", func(t *testing.T) {
		if native, _ := index("native"); len(native.Manifests) != 1 {
			t.Errorf("the index has %q: can this machine build for arm64?", platforms(native))
		}
		status, _, body, err := r.Get(t.Context(), "/v2/arm64/native/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil ||
			status != http.StatusForbidden ||
			!strings.Contains(string(body), "needs a machine for aarch64-linux") {
			t.Errorf("arm64/native is answered with %d %s, %v", status, body, err)
		}
	})
}
