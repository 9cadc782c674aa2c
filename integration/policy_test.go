package integration

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// policySet has packages under several names. Evaluating hang does not end.
const policySet = `{ system, ... }:
let
  inherit (builtins) foldl' genList;
  inherit (import ./fresh.nix { inherit system; }) quick reader writer editor;
  spin = depth: foldl' (_: _: if depth == 0 then 0 else spin (depth - 1)) 0 (genList (n: n) 1000);
in
rec {
  git = quick // { pname = "git"; };
  renamed = quick // { pname = "harmless"; };
  unnamed = removeAttrs quick [ "pname" ];
  tools.vcs = quick // { pname = "harmless"; };
  perl = {
    uri = writer // { pname = "uri"; };
    pkgs.git = quick // { pname = "git"; };
    pkgs.pkgs.editor = editor // { pname = "editor"; };
  };
  hang = quick // { name = builtins.deepSeq (spin 9) "hang"; };
  inherit reader writer editor;
}
`

// askPolicy checks which names a policy lets through.
func askPolicy(t *testing.T, r *Registry, want map[string]int) {
	t.Helper()
	for name, status := range want {
		got, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || got != status ||
			status == http.StatusForbidden && !strings.Contains(string(body), "denied by the policy") {
			t.Errorf("%s is answered with %d %s, %v, want %d", name, got, body, err, status)
		}
	}
}

// A package that is denied by its name is denied by any other name that the set has for it. One
// that can't be evaluated, or that there is not, is in nobody's way. What is denied is found out
// with the first names of a revision, and never again.
func TestDeniedPackagesHaveNoOtherName(t *testing.T) {
	t.Parallel()
	set := FreshPackages(t)
	Write(t, filepath.Join(set, "fresh.nix"), Read(t, filepath.Join(set, "default.nix")))
	Write(t, filepath.Join(set, "default.nix"), policySet)
	r := StartRegistry(
		t, "nix.packages.path="+set, `nix.names.deny=["git", "hang", "no-such-package"]`,
		"nix.nix.evaluationtime=2s",
	)
	evaluations := func() (n int) {
		for _, program := range r.Programs() {
			if program == "nix-instantiate" {
				n++
			}
		}
		return n
	}
	r.Pull(t, "reader")
	for _, name := range []string{"writer", "editor"} {
		before := evaluations()
		askPolicy(t, r, map[string]int{name: http.StatusOK})
		if n := evaluations() - before; n != 2 { // what it is, and its derivation
			t.Errorf("%s took %d evaluations, want 2", name, n)
		}
	}
	askPolicy(t, r, map[string]int{
		"git": http.StatusForbidden, "renamed": http.StatusForbidden, "unnamed": http.StatusForbidden,
		"tools.vcs": http.StatusForbidden, "reader/renamed": http.StatusForbidden,
		"perl.pkgs.git": http.StatusForbidden, "perl.uri": http.StatusOK,
	})
	if stdout, stderr, err := r.nix("layout"); err != nil || !strings.Contains(stderr+stdout, "denied") {
		t.Errorf("layout: %v, %q, %s", err, stdout, stderr)
	}
	Write(t, filepath.Join(set, "default.nix"), strings.Replace(policySet, "renamed = quick", "renamed = reader", 1))
	askPolicy(t, r, map[string]int{"renamed": http.StatusOK, "unnamed": http.StatusForbidden}) // of another revision
}

// What is allowed with a wildcard ends at the next dot.
func TestAllowedPart(t *testing.T) {
	t.Parallel()
	set := FreshPackages(t)
	Write(t, filepath.Join(set, "fresh.nix"), Read(t, filepath.Join(set, "default.nix")))
	Write(t, filepath.Join(set, "default.nix"), policySet)
	for allow, want := range map[string]map[string]int{
		`["perl.*"]`: {
			"perl.uri": http.StatusOK, "perl.pkgs.git": http.StatusForbidden,
			"perl.pkgs.pkgs.editor": http.StatusForbidden, "reader": http.StatusForbidden,
		},
		`["perl.**"]`: {
			"perl.uri": http.StatusOK, "perl.pkgs.git": http.StatusOK, "perl.pkgs.pkgs.editor": http.StatusOK,
			"reader": http.StatusForbidden,
		},
	} {
		askPolicy(t, StartRegistry(t, "nix.packages.path="+set, "nix.names.allow="+allow), want)
	}
}
