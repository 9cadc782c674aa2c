package integration

import (
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

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
  label = image { labels.a = long 5000000; };
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
		"label":     "label: passthru.image has 5000",
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
}
