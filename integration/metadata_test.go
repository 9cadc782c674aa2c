package integration

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/labels"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// What packages say of themselves is bounded before it is kept. What only people read is cut; a
// package of which no image can be made that the registry could read again is refused with the
// field and its limit, at each pull, and nothing of it is stored.
func TestMetadataIsBounded(t *testing.T) {
	t.Parallel()
	set := FreshPackages(t)
	Write(t, filepath.Join(set, "fresh.nix"), Read(t, filepath.Join(set, "default.nix")))
	Write(t, filepath.Join(set, "default.nix"), `{ system, ... }:
let
  inherit (import ./fresh.nix { inherit system; }) quick;
  long = n: builtins.concatStringsSep "" (builtins.genList (_: "0123456789abcdef") (n / 16));
  licenses = builtins.genList (n: { spdxId = "license-${toString n}-${long 1000}"; }) 2000;
  image = settings: quick // { passthru.image = settings; };
in
{
  described = quick // { meta = { description = long 4000000; license = licenses; mainProgram = "quick"; }; };
  version = quick // { version = long 5000000; };
  program = quick // { meta.mainProgram = long 400; };
  settings = image { labels.a = long 5000000; };
  label = image { labels.a = long 4096; };
  port = image { exposedports = [ "99999" ]; };
  variable = image { env.A = "a\nPATH=/evil"; };
  directory = image { workingdir = "../.."; };
}
`)
	r := StartRegistry(t, "nix.packages.path="+set)
	r.CheckWhole(t, r.Pull(t, "described"))
	for name, want := range map[string]string{
		"version":   "version: its version has 5000000 bytes, 256 are allowed",
		"program":   "program: its meta.mainProgram has 400 bytes, 256 are allowed",
		"settings":  "settings: passthru.image has 5000",
		"label":     "label: passthru.image.labels has 4097 bytes in",
		"port":      "port: passthru.image.exposedports has",
		"variable":  "passthru.image.env has a line break or another control character in A",
		"directory": "passthru.image.workingdir is",
	} {
		for range 2 {
			status, _, body, err := r.Get(
				t.Context(), fmt.Sprintf("/v2/%s/manifests/latest", name), v1.MediaTypeImageManifest,
			)
			if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), want) {
				t.Errorf("%s is answered with %d %.300s, %v, want %q", name, status, body, err, want)
			}
		}
		if left := files(t, filepath.Join(r.storage(), "docker", "registry", "v2", "repositories", name)); len(
			left,
		) > 0 {
			t.Errorf("%q is left", left)
		}
	}
	var records int64
	err := filepath.WalkDir(
		filepath.Join(r.storage(), "nix", "v1"),
		func(_ string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			records += info.Size()
			return err
		},
	)
	if err != nil || records > 100_000 {
		t.Errorf("the records have %d bytes, %v", records, err)
	}
	r = StartRegistry(t, "nix.packages.path="+set, `nix.include=["label"]`)
	status, _, body, err := r.Get(t.Context(), "/v2/described/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(string(body), "includes label") {
		t.Errorf("with an include at fault, the answer is %d %s, %v", status, body, err)
	}
	r.AwaitLog("label: passthru.image.labels has 4097 bytes in", 1)
}

// An image of as many packages as a name has room for, which is 255 bytes with the host, has no label
// that clients of containerd could not take. The manifest tells of all packages.
func TestManyPackages(t *testing.T) {
	t.Parallel()
	const letters = "abcdefghijklmnopqrstuvwxyz"
	names := strings.Split(letters, "")
	for i := range 61 { // ma, mb, …: none is a meta-package
		names = append(names, letters[12+i/26:13+i/26]+letters[i%26:i%26+1])
	}
	name := strings.Join(names, "/")
	set := FreshPackages(t)
	file := filepath.Join(set, "default.nix")
	Write(t, file, strings.Replace(Read(t, file), "in\n{\n", fmt.Sprintf(
		"in\nlistToAttrs (map (name: { inherit name; value = says name 0 name; }) [ \"%s\" ])\n// {\n",
		strings.Join(names, "\" \""),
	), 1))
	r := StartRegistry(t, "nix.packages.path="+set, "nix.names.maxpackages=100")
	image := r.Pull(t, name)
	var config v1.Image
	if err := json.Unmarshal(r.Blob(t, image, image.Config), &config); err != nil {
		t.Fatal(err)
	}
	for key, value := range config.Config.Labels {
		if err := labels.Validate(key, value); err != nil {
			t.Errorf("containerd says: %v", err)
		}
		if value != image.Annotations[key] {
			t.Errorf("the label %s is %q, the annotation %q", key, value, image.Annotations[key])
		}
	}
	var packages []struct{ Name string }
	if err := json.Unmarshal([]byte(image.Annotations["io.github.nixery-registry.packages"]), &packages); err != nil {
		t.Fatal(err)
	}
	if len(packages) != len(names) {
		t.Errorf("the annotation has %d packages, want %d", len(packages), len(names))
	}
	for _, engine := range Engines {
		t.Run(engine.Name, func(t *testing.T) {
			engine.Pull(t, r.Ref(name))
			last := names[len(names)-1]
			if got := engine.Run(t, "--network", "none", r.Ref(name), last); got != last {
				t.Errorf("it wrote %q", got)
			}
		})
	}
}
