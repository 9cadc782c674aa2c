package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestEdit edits the package set between pulls.
func TestEdit(t *testing.T) {
	t.Parallel()
	replace := func(file, old, changed string) func(*testing.T, string) {
		return func(t *testing.T, packages string) {
			name := filepath.Join(packages, file)
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(content), old) {
				t.Fatalf("%s has no %q", file, old)
			}
			Write(t, name, strings.Replace(string(content), old, changed, 1))
		}
	}
	for _, test := range []struct {
		name, image    string
		packages       func(testing.TB) string
		edit           func(t *testing.T, packages string)
		layersAreEqual bool
	}{
		{
			name: "what an image is made of", image: "quick", packages: FreshPackages,
			edit: func(t *testing.T, packages string) { Write(t, filepath.Join(packages, "text"), "changed") },
		},
		{
			name: "another package for a name", image: "hello", packages: CopyDemoPackages,
			edit: replace("default.nix", `  hello = program "hello" "hello"`, `  hello = program "jq" "jq"`),
		},
		{
			name: "nothing that matters to an image", image: "hello", packages: CopyDemoPackages, layersAreEqual: true,
			edit: replace("default.nix", "# A package set", "# An edited package set"),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := test.packages(t)
			r := StartRegistry(t, "nix.packages.path="+packages)
			first := r.Pull(t, test.image)

			programs := r.Programs()
			if again := r.Pull(t, test.image); again.Digest != first.Digest {
				t.Errorf("unchanged, it has digest %s, had %s", again.Digest, first.Digest)
			}
			if now := r.Programs(); !slices.Equal(now, programs) {
				t.Errorf("unchanged, programs were started: %q", now[len(programs):])
			}

			test.edit(t, packages)
			edited := r.Pull(t, test.image)
			if edited.Digest == first.Digest {
				t.Error("the edit was not seen")
			}
			if got := slices.EqualFunc(edited.Layers, first.Layers, sameBlob); got != test.layersAreEqual {
				t.Errorf("the layers are the same: %v, want %v", got, test.layersAreEqual)
			}
			r.CheckWhole(t, edited)
		})
	}
}

func sameBlob(a, b v1.Descriptor) bool { return a.Digest == b.Digest }
