package integration

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestOutputs pulls outputs by their names, and attributes that are outputs: those outputs are
// installed, alone.
func TestOutputs(t *testing.T) {
	t.Parallel()
	packages := freshSet(t, "outputs")
	r := StartRegistry(t, "nix.packages.path="+packages, "nix.build.hold=300s")
	for _, test := range []struct {
		image    string
		closure  []string // attributes
		packages []string // as the image's annotation has them
		files    []string // of share
		cmd      []string
	}{
		{"tool", []string{"tool.bin"}, []string{"tool"}, []string{"bin"}, []string{"/bin/tool"}},
		{"tool.bin", []string{"tool.bin"}, []string{"tool.bin"}, []string{"bin"}, []string{"/bin/tool"}},
		{"tool.out", []string{"tool.out"}, []string{"tool.out"}, []string{"out"}, nil},
		{"tool.dev", []string{"tool.dev"}, []string{"tool.dev"}, []string{"dev"}, nil},
		{
			"tool/tool.dev", []string{"tool.bin", "tool.dev"}, []string{"tool", "tool.dev"},
			[]string{"bin", "dev"}, []string{"/bin/tool"},
		},
		{
			"tool.dev/tool.lib", []string{"tool.dev", "tool.lib"}, []string{"tool.dev", "tool.lib"},
			[]string{"dev", "lib"}, nil,
		},
		{"tool/tool.bin", []string{"tool.bin"}, []string{"tool"}, []string{"bin"}, []string{"/bin/tool"}},
		{"tooldev", []string{"tool.dev"}, []string{"toolDev"}, []string{"dev"}, nil},
		{"toollib", []string{"tool.lib"}, []string{"toolLib"}, []string{"lib"}, nil},
		{"toolstilldev", []string{"tool.dev"}, []string{"toolStillDev"}, []string{"dev"}, nil},
		{"plaindev", []string{"plainDev"}, []string{"plainDev"}, []string{"dev"}, nil},
		{"stdenv.cc.cc.lib", []string{"stdenv.cc.cc.lib"}, []string{"stdenv.cc.cc.lib"}, []string{"lib"}, nil},
	} {
		t.Run(strings.ReplaceAll(test.image, "/", "+"), func(t *testing.T) {
			image := r.Pull(t, test.image)
			config := r.Verify(t, image, Closure(t, packages, test.closure...))
			if !slices.Equal(config.Config.Cmd, test.cmd) {
				t.Errorf("it runs %q, want %q", config.Config.Cmd, test.cmd)
			}
			var annotated []struct{ Name string }
			if err := json.Unmarshal(
				[]byte(image.Annotations["io.github.nixery-registry.packages"]), &annotated,
			); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, one := range annotated {
				names = append(names, one.Name)
			}
			if !slices.Equal(names, test.packages) {
				t.Errorf("its packages are %q, want %q", names, test.packages)
			}
			root, err := r.layer(t.Context(), image.Name, image.Layers[0], config.RootFS.DiffIDs[0])
			if err != nil {
				t.Fatal(err)
			}
			var files []string
			for name := range root {
				if file, ok := strings.CutPrefix(name, "share/"); ok {
					files = append(files, strings.TrimSuffix(file, "/"))
				}
			}
			slices.Sort(files)
			if files = slices.DeleteFunc(files, func(file string) bool { return file == "" }); !slices.Equal(
				files, test.files,
			) {
				t.Errorf("/share has %q, want %q", files, test.files)
			}
		})
	}
	for _, test := range []struct {
		image  string
		status int
		text   string
	}{
		{"tool.man", http.StatusNotFound, "there is no package tool.man: tool has the outputs bin, dev, lib, out"},
		{"tool.dve", http.StatusNotFound, "(did you mean tool.dev?)"},
		{
			"stdenv.cc", http.StatusForbidden,
			"stdenv.cc is a part of the package stdenv, not a package: stdenv has the output out",
		},
	} {
		status, _, body, err := r.Get(t.Context(), "/v2/"+test.image+"/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != test.status || !strings.Contains(string(body), test.text) {
			t.Errorf(
				"%s is answered with %d %s, %v; want %d and %q", test.image, status, body, err, test.status,
				test.text,
			)
		}
	}
	// Each output that is an attribute counts once, and what is inside a package is not searched
	// for packages.
	stdout, stderr, err := r.nix("layout")
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{64}: 4 packages with 4 store paths, `).MatchString(stdout) {
		t.Errorf("layout: %v, %q, %s", err, stdout, stderr)
	}

	strict := StartRegistry(
		t, "nix.packages.path="+packages, "nix.build.hold=300s", `nix.names.deny=["tool", "stdenv"]`,
	)
	for _, image := range []string{"tool.dev", "tooldev", "stdenv.cc.cc.lib"} {
		status, _, body, err := strict.Get(t.Context(), "/v2/"+image+"/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), "denied by the policy") {
			t.Errorf("%s, denied, is answered with %d %s, %v", image, status, body, err)
		}
	}
	strict.Pull(t, "plaindev")
}
