package integration

import (
	"archive/tar"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// push pushes an image that has one file with some text.
func push(t *testing.T, ref, text string) {
	t.Helper()
	Needs(t, "crane")
	layer := filepath.Join(Dir(t), "layer.tar")
	file, err := os.Create(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	archive := tar.NewWriter(file)
	if err := archive.WriteHeader(&tar.Header{Name: "text", Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	Exec(t, "crane", "append", "--oci-empty-base", "--new_layer", layer, "--new_tag", ref)
}

func TestPushedBesideBuilt(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t)
	push(t, r.Ref("team/app:v1"), "app")
	built := r.Pull(t, "hello")

	for _, image := range []string{"team/app:v1", "hello"} {
		Exec(t, "crane", "validate", "--remote", r.Ref(image))
	}
	catalog := strings.Fields(Exec(t, "crane", "catalog", r.Addr))
	if want := []string{"hello", "team/app"}; !slices.Equal(catalog, want) {
		t.Errorf("the catalog is %q, want %q", catalog, want)
	}
	// The same layers can be had under a name that was pushed.
	Exec(t, "crane", "copy", r.Ref("hello"), r.Ref("team/hello:copied"))
	if got := Exec(t, "crane", "digest", r.Ref("team/hello:copied")); got != built.Digest.String() {
		t.Errorf("the copy's digest is %s, want %s", got, built.Digest)
	}
}

func TestPushWins(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		builtFirst bool
	}{
		{"over a built tag", true},
		{"before anything was built", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t)
			r := StartRegistry(t, "nix.packages.path="+packages)
			if test.builtFirst {
				r.Pull(t, "quick")
			}
			push(t, r.Ref("quick:latest"), "pushed")
			pushed := r.Pull(t, "quick")
			if got := string(r.Blob(t, pushed, pushed.Layers[0])); len(pushed.Layers) != 1 || got == "" {
				t.Fatalf("the image has %d layers, want the pushed one", len(pushed.Layers))
			}
			Write(t, filepath.Join(packages, "text"), "changed")
			if got := r.Pull(t, "quick"); got.Digest != pushed.Digest {
				t.Errorf("the pushed image was replaced by %s", got.Digest)
			}
		})
	}
}

// TestGarbageCollection deletes a built image, or leaves it, and pulls it again after garbage
// collection.
func TestGarbageCollection(t *testing.T) {
	t.Parallel()
	const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	for _, test := range []struct {
		name   string
		delete bool
		flags  []string
		want   int // how often the image is built in all
	}{
		{"kept", false, nil, 1},
		{"kept, untagged manifests removed", false, []string{"-m"}, 1},
		{"deleted", true, nil, 2},
		{"deleted, untagged manifests removed", true, []string{"-m"}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := StartRegistry(t)
			built := r.Pull(t, "shell/jq")
			dockerForm := func() string {
				status, _, body, err := r.Get(t.Context(), "/v2/shell/jq/manifests/latest", dockerManifest)
				if err != nil || status != http.StatusOK {
					t.Fatalf("pulling Docker's form: status %d, %v", status, err)
				}
				return string(body)
			}
			docker := dockerForm()
			if test.delete {
				Needs(t, "crane")
				Exec(t, "crane", "delete", r.Ref("shell/jq@"+built.Digest.String()))
			}
			r.Stop()
			r.GarbageCollect(test.flags...)
			r.Start()
			again := r.Pull(t, "shell/jq")
			if again.Digest != built.Digest {
				t.Errorf("it has digest %s now, had %s", again.Digest, built.Digest)
			}
			r.CheckWhole(t, again)
			if dockerForm() != docker {
				t.Error("Docker's form of it changed")
			}
			if got := strings.Count(r.Log(), logBuilt); got != test.want {
				t.Errorf("it was built %d times, want %d", got, test.want)
			}
		})
	}
}
