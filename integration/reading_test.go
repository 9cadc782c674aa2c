package integration

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestImportFromDerivation serves packages whose expressions are built first.
func TestImportFromDerivation(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	fresh := filepath.Join(packages, "default.nix")
	Write(t, filepath.Join(packages, "fresh.nix"), Read(t, fresh))
	Write(t, fresh, `{ system, ... }:
let
  fresh = import ./fresh.nix { inherit system; };
  make = name: script: derivation (fresh.quick.drvAttrs // { inherit name; args = [ "sh" "-euc" script ]; });
  expression = make "expression.nix" "$b echo 'quick: derivation (quick.drvAttrs // { name = \"generated\"; })' > $out";
in
fresh // {
  generated = import expression fresh.quick;
  failing = import (make "failing.nix" "echo no such luck; exit 1");
  large = builtins.seq (builtins.readFile (make "large.nix" "$b head -c 20000000 /dev/zero > $out")) fresh.quick;
}`)
	answer := func(r *Registry, name string) (int, string) {
		t.Helper()
		status, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil {
			t.Fatal(err)
		}
		return status, string(body)
	}
	off := StartRegistry(t, "nix.packages.path="+packages)
	if status, body := answer(off, "generated"); status != http.StatusForbidden ||
		!strings.Contains(body, "generated needs import from derivation, which is off: nix.importfromderivation") {
		t.Errorf("where it is off, the answer is %d %s", status, body)
	}

	r := StartRegistry(
		t, "nix.packages.path="+packages, "nix.nix.importfromderivation=true", "nix.build.maxsize=10MB",
		"nix.build.concurrency=1",
	)
	image := r.Pull(t, "generated")
	r.CheckWhole(t, image)
	programs := r.Programs()
	if r.Pull(t, "generated").Digest != image.Digest || len(r.Programs()) != len(programs) {
		t.Error("again, there was something to do")
	}
	for name, want := range map[string]string{
		"failing": "failing needs import from derivation: building failing.nix failed",
		"large":   "large needs import from derivation: the store paths",
	} {
		if status, body := answer(r, name); status != http.StatusForbidden || !strings.Contains(body, want) {
			t.Errorf("%s is answered with %d %s, want %q", name, status, body, want)
		}
	}
	if status, body := answer(r, "failing"); status != http.StatusForbidden || !strings.Contains(body, "no such luck") {
		t.Errorf("failing is answered with %d %s, without its log", status, body)
	}
	r.Pull(t, "quick")
}
