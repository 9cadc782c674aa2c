package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// pathsSet has packages that fail with a path of the host in what Nix says: of the set, of what is
// around it, of where it is built.
const pathsSet = `{ system ? builtins.currentSystem, ... }:
let
  fresh = import ./fresh.nix { inherit system; };
  b = "${./bin}/busybox";
  make = name: script: derivation { inherit name system b; builder = b; args = [ "sh" "-c" script ]; salt = builtins.readFile ./salt; };
  above = n: builtins.concatStringsSep "/" (builtins.genList (_: "..") n);
  at = n: name: ./. + "/${above n}/${name}";
  numbered = prefix: f: builtins.listToAttrs (builtins.genList (n: { name = "${prefix}${toString n}"; value = f n; }) 8);
in
fresh
// numbered "reads" (n: builtins.readFile (at n "config.yml"))
// numbered "lists" (n: builtins.attrNames (builtins.readDir (at n "")))
// numbered "imports" (n: import (at n "x.nix"))
// numbered "copies" (n: make "copies" "echo ${at n "storage"}; exit 1")
// numbered "throws" (n: throw "see ${toString (at n "storage")}")
// {
  itself = throw (toString ./.);
  position = throw (builtins.toJSON (builtins.unsafeGetAttrPos "itself" { itself = 1; }));
  says-itself = make "says-itself" "echo in ${toString ./.}; exit 1";
  says-above = make "says-above" "echo in ${toString ../../..}; exit 1";
  says-where = make "says-where" "pwd; echo $NIX_BUILD_TOP; exit 1";
  fetches = import (builtins.fetchGit ./.);
  fetches-url = import (builtins.fetchurl "file://${toString ../../..}/config.yml");
  whiteout = make "whiteout" "$b mkdir $out; echo > $out/.wh.x";
  pipe = make "pipe" "$b mknod $out p";
}
`

// TestAnswersHaveNoHostPaths pulls what fails in many ways, and packages of sets that can't be had:
// no answer has a path of the registry's host.
func TestAnswersHaveNoHostPaths(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	if err := os.Rename(filepath.Join(packages, "default.nix"), filepath.Join(packages, "fresh.nix")); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(packages, "default.nix"), pathsSet)
	Write(t, filepath.Join(packages, "salt"), t.Name()+packages)
	names := []string{
		"itself", "position", "says-itself", "says-above", "says-where", "fetches", "fetches-url", "whiteout",
		"pipe", "nothing", "itself.x",
	}
	for _, prefix := range []string{"reads", "lists", "imports", "copies", "throws"} {
		for n := range 8 {
			names = append(names, fmt.Sprint(prefix, n))
		}
	}
	check := func(t *testing.T, r *Registry, name string) {
		t.Helper()
		status, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil ||
			status != http.StatusForbidden && status != http.StatusNotFound && status != http.StatusServiceUnavailable {
			t.Errorf("%s is answered with %d %s, %v", name, status, body, err)
		}
		for _, secret := range []string{packages, r.Dir, shared.dir, os.TempDir() + "/nix-build-"} {
			if strings.Contains(string(body), secret) {
				t.Errorf("the answer for %s has the host's %s: %s", name, secret, body)
			}
		}
	}
	r := StartRegistry(t, "nix.packages.path="+packages, "nix.build.perclient=200")
	for _, name := range names {
		check(t, r, name)
	}
	for name, set := range map[string]string{
		"a git repository that is not there": `{"git": {"url": "file://` + packages + `-gone", "ref": "main"}}`,
		"a git repository that is none":      `{"git": {"url": "file://` + packages + `", "ref": "main"}}`,
	} {
		t.Run(name, func(t *testing.T) { check(t, StartRegistry(t, "nix.packages="+set), "quick") })
	}
	t.Run("a path that is not there", func(t *testing.T) {
		if err := os.Rename(packages, packages+"-away"); err != nil {
			t.Fatal(err)
		}
		check(t, r, "quick")
	})
}

// TestKilledBuilder ends a builder as the kernel does where memory is short: clients are told to
// come back, it is not built again for the GET after the HEAD, and the operator is warned.
func TestKilledBuilder(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	if err := os.Rename(filepath.Join(packages, "default.nix"), filepath.Join(packages, "fresh.nix")); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(packages, "default.nix"), `{ system ? builtins.currentSystem, ... }:
{ victim = derivation { name = "victim"; inherit system; builder = "${./bin}/busybox"; args = [ "sleep" "1000" ]; SALT = "`+packages+`"; }; }
`)
	r := StartRegistry(t, "nix.packages.path="+packages)
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		Eventually(t, commandTime, "the builder runs", func() bool {
			files, err := filepath.Glob("/proc/[0-9]*/environ")
			if err != nil {
				return false
			}
			for _, file := range files {
				environ, err := os.ReadFile(file)
				if err != nil || !strings.Contains(string(environ), "SALT="+packages) {
					continue
				}
				var pid int
				if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil &&
					syscall.Kill(pid, syscall.SIGKILL) == nil {
					return true
				}
			}
			return false
		})
	}()
	for range 2 {
		status, header, body, err := r.Get(t.Context(), "/v2/victim/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusServiceUnavailable || header.Get("Retry-After") != "60" ||
			!strings.Contains(string(body), "building victim was ended by SIGKILL") {
			t.Errorf("the answer is %d %v %s, %v", status, header, body, err)
		}
	}
	<-killed
	if n := strings.Count(r.Log(), logBuilding); n != 1 {
		t.Errorf("it is built %d times, want once", n)
	}
	if !strings.Contains(r.Log(), "level=warning msg=\"nix: making /nix/store/") {
		t.Error("the operator is not warned")
	}
}
