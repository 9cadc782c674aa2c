package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// TestBadPackageSets serves a set that works, breaks it in one way after another, and mends it each
// time. Clients are told what is wrong with it, nothing is left of the attempt, and the next pull
// works.
func TestBadPackageSets(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	file := filepath.Join(packages, "default.nix")
	good := Read(t, file)
	r := StartRegistry(t, "nix.packages.path="+packages)
	for n, test := range []struct {
		name, text string
		want       string // in the message
	}{
		{"a list", "[ ]", "it is a list, not an attribute set"},
		{"a number", "42", "it is a int, not an attribute set"},
		{"a text", `"hello"`, "it is a string, not an attribute set"},
		{"null", "null", "it is a null, not an attribute set"},
		{
			"a throw of a long text",
			`throw (builtins.concatStringsSep "" (builtins.genList (_: "much ") 100000))`, "much much",
		},
		{"a function of other arguments", "{ system, nixpkgs }: { }", "without required argument 'nixpkgs'"},
		{"a function of functions", "{ system, ... }: { extra }: { }", "it is a function, not an attribute set"},
		{"a throw", `throw "out of order"`, "out of order"},
		{"a throw in an import", "import ./broken.nix", "broken here"},
		{"an abort", `abort "given up"`, "given up"},
		{"an assertion", "assert false; { }", "assertion"},
		{"a syntax error", "{ quick = ; }", "unexpected ';' (packages/default.nix:1:11)"},
		{"not Nix at all", "\x7fELF\x00\x01", "packages/default.nix"},
		{"an empty file", "", "unexpected end of file"},
		{"an import of nothing", "import ./nowhere.nix", "packages/nowhere.nix"},
		{"endless recursion", "let set = set; in set", "infinite recursion"},
		{
			"a network that nobody allowed", `import (fetchTarball "http://127.0.0.1:1/x.tar.gz")`,
			"is forbidden in restricted mode",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			Write(t, filepath.Join(packages, "broken.nix"), fmt.Sprintf(`throw "broken here"  # %d`, n))
			Write(t, file, test.text)
			image := fmt.Sprintf("quick/sleeps.s%d", n)
			for _, name := range []string{image, "quick"} {
				status, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
				if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), "DENIED") ||
					!strings.Contains(string(body), test.want) {
					t.Errorf("%s is answered with %d %.300s, %v, want %q", name, status, body, err, test.want)
				}
				if strings.Contains(string(body), packages) || strings.Contains(string(body), r.Dir) ||
					len(body) > 8<<10 {
					t.Errorf("the answer of %d bytes shows the host: %s", len(body), body)
				}
			}
			if left := r.uploads(t); len(left) > 0 {
				t.Errorf("unfinished uploads are left: %q", left)
			}
			if left := files(t, filepath.Join(r.storage(), "docker", "registry", "v2", "repositories", image)); len(
				left,
			) > 0 {
				t.Errorf("%q is left", left)
			}
			Write(t, file, good)
			Write(t, filepath.Join(packages, "text"), test.name)
			r.CheckWhole(t, r.Pull(t, "quick"))
		})
	}
}

// TestBadPackages breaks one package of a set in one way after another. The others are served, near
// misses are named, and clients are told what is wrong, and where, with that package alone. A set
// whose fixed point does not end can't be used at all. When everything is mended, the package is
// served.
func TestBadPackages(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	if err := os.Rename(filepath.Join(packages, "default.nix"), filepath.Join(packages, "fresh.nix")); err != nil {
		t.Fatal(err)
	}
	// As nixpkgs is made: a fixed point with overlays, and a package in a file of its own.
	Write(t, filepath.Join(packages, "default.nix"), `{ system, ... }:
let
  base = final: import ./fresh.nix { inherit system; } // { wonder = import ./wonder.nix final; };
  extend = f: overlay: final: let prev = f final; in prev // overlay final prev;
  fix = f: let x = f x; in x;
in
fix (builtins.foldl' extend base (import ./overlays.nix))
`)
	const wonder = "final: final.quick // { pname = \"wonder\"; }\n"
	const overlays = "[ (final: prev: { marvel = final.wonder; }) ]\n"
	mend := func() {
		t.Helper()
		Write(t, filepath.Join(packages, "wonder.nix"), wonder)
		Write(t, filepath.Join(packages, "overlays.nix"), overlays)
	}
	mend()
	r := StartRegistry(t, "nix.packages.path="+packages)
	for _, test := range []struct {
		name, file, text string
		want             string // in the message
		whole            bool   // it is the set that can't be used
	}{
		{
			"a syntax error", "wonder.nix", "final:\nfinal.quick // { pname = ; }",
			"unexpected ';' (packages/wonder.nix:2:26)", false,
		},
		{"an unfinished file", "wonder.nix", "final: final.quick // {", "unexpected end of file", false},
		{"bytes", "wonder.nix", "\x7fELF\x00", "packages/wonder.nix:1:1", false},
		{
			"an unknown variable", "wonder.nix", "final: finale.quick",
			"undefined variable 'finale' (packages/wonder.nix:1:8)", false,
		},
		{"an abort", "wonder.nix", `final: abort "no wonder"`, "no wonder", false},
		{
			"a package of itself", "overlays.nix", "[ (final: prev: { wonder = final.wonder; }) ]",
			"infinite recursion encountered (packages/overlays.nix:1:19)", false,
		},
		{
			"a package changed in itself", "overlays.nix",
			"[ (final: prev: { wonder = final.wonder // { pname = \"wonder\"; }; }) ]",
			"infinite recursion encountered (packages/overlays.nix:1:", false,
		},
		{
			"calls without end", "overlays.nix",
			"[ (final: prev: { wonder = let f = x: 1 + f x; in f 0; }) ]", "overflow", false,
		},
		{
			"names out of the fixed point", "overlays.nix",
			"[ (final: prev: if final ? wonder then { } else { wonder = 1; }) ]",
			"evaluating the package set: infinite recursion encountered (packages/overlays.nix:1:20)", true,
		},
		{
			"all of the fixed point", "overlays.nix", "[ (final: prev: final) ]",
			"evaluating the package set: infinite recursion encountered", true,
		},
		{
			"a set that aborts", "overlays.nix", `abort "no overlays today"`,
			"evaluating the package set: evaluation aborted with the following error message: 'no overlays today'",
			true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			ask := func(name string, want int, text string) {
				t.Helper()
				status, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
				if err != nil || status != want || !strings.Contains(string(body), text) {
					t.Errorf("%s is answered with %d %.500s, %v, want %d and %q", name, status, body, err, want, text)
				}
				if strings.Contains(string(body), packages) || strings.Contains(string(body), r.Dir) {
					t.Errorf("the answer shows the host: %s", body)
				}
			}
			Write(t, filepath.Join(packages, test.file), test.text)
			ask("wonder", http.StatusForbidden, test.want)
			ask("quick/wonder", http.StatusForbidden, test.want)
			if test.whole {
				ask("quick", http.StatusForbidden, test.want)
			} else {
				ask("quick/wonder", http.StatusForbidden, "wonder") // it is said which of the two
				ask("wondr", http.StatusNotFound, "did you mean wonder")
				r.CheckWhole(t, r.Pull(t, "quick"))
			}
			mend()
			// Another revision than any before, of which nothing is known.
			Write(t, filepath.Join(packages, "note"), test.name)
			r.CheckWhole(t, r.Pull(t, "wonder"))
		})
	}
}

// TestVanishingPath takes a path away, as a whole and in part, and gives it back.
func TestVanishingPath(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	r := StartRegistry(t, "nix.packages.path="+packages)
	first := r.Pull(t, "quick")
	away := func(name string) (back func()) {
		t.Helper()
		if err := os.Rename(name, name+"-away"); err != nil {
			t.Fatal(err)
		}
		return func() {
			t.Helper()
			if err := os.Rename(name+"-away", name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n, test := range []struct {
		name, file string
		status     int
		text       string
	}{
		{"the directory", packages, http.StatusServiceUnavailable, "UNAVAILABLE"},
		{"its default.nix", filepath.Join(packages, "default.nix"), http.StatusForbidden, "packages/default.nix"},
		{"a part of it", filepath.Join(packages, "bin"), http.StatusForbidden, "packages/bin"},
	} {
		t.Run(test.name, func(t *testing.T) {
			back := away(test.file)
			name := fmt.Sprintf("sleeps.s%d", n)
			status, header, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
			if err != nil || status != test.status || !strings.Contains(string(body), test.text) ||
				strings.Contains(string(body), shared.dir) {
				t.Errorf("the answer is %d %s, %v, want %d with %q", status, body, err, test.status, test.text)
			}
			if status == http.StatusServiceUnavailable && header.Get("Retry-After") == "" {
				t.Error("the client is not told when to come back")
			}
			back()
			r.CheckWhole(t, r.Pull(t, name))
			if again := r.Pull(t, "quick"); again.Digest != first.Digest {
				t.Errorf("quick is %s, was %s", again.Digest, first.Digest)
			}
		})
	}

	// While it is used: whoever moves it to and fro sees answers that are right or that ask to come
	// back, never an image of half a set.
	t.Run("again and again", func(t *testing.T) {
		stop := make(chan struct{})
		var mover sync.WaitGroup
		mover.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, name := range []string{
					packages, filepath.Join(packages, "bin"), filepath.Join(packages, "default.nix"),
				} {
					if os.Rename(name, name+"-away") == nil {
						_ = os.Rename(name+"-away", name)
					}
				}
			}
		})
		for n := range 12 {
			name := fmt.Sprintf("quick/sleeps.s%d", n%3)
			status, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
			if err != nil ||
				!slices.Contains(
					[]int{http.StatusOK, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable},
					status,
				) {
				t.Errorf("the answer is %d %s, %v", status, body, err)
			}
			if strings.Contains(string(body), shared.dir) {
				t.Errorf("the answer shows the host: %s", body)
			}
			if status == http.StatusOK {
				image := Image{Name: name, Digest: digest.FromBytes(body)}
				if err := json.Unmarshal(body, &image.Manifest); err != nil {
					t.Fatal(err)
				}
				r.CheckWhole(t, image)
			}
		}
		close(stop)
		mover.Wait()
		if again := r.Pull(t, "quick"); again.Digest != first.Digest {
			t.Errorf("quick is %s, was %s", again.Digest, first.Digest)
		}
		r.CheckWhole(t, r.Pull(t, "quick/sleeps.s0"))
	})
}

// TestReadOnlyPath serves a set from a read-only mount.
func TestReadOnlyPath(t *testing.T) {
	t.Parallel()
	needs.Root(t, "to mount")
	packages, mounted := FreshPackages(t), Dir(t)
	if err := syscall.Mount(packages, mounted, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mounted, 0); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("", mounted, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mounted, "new"), nil, 0o644); err == nil {
		t.Fatal("the mount can be written to")
	}
	r := StartRegistry(t, "nix.packages.path="+mounted)
	first := r.Pull(t, "quick")
	r.CheckWhole(t, first)
	Write(t, filepath.Join(packages, "text"), "edited on the other side")
	if second := r.Pull(t, "quick"); second.Digest == first.Digest {
		t.Error("an edit is not seen")
	}
}

// TestChannelAppears asks for channels that do not exist, until they do.
func TestChannelAppears(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	var mu sync.Mutex
	revision := ""
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case revision != "" && request.URL.Path == "/nixos-77.05/git-revision":
			fmt.Fprintln(w, revision)
		case revision != "" && request.URL.Path == "/"+revision+".tar.gz":
			if err := writeArchive(w, packages, "nixpkgs"); err != nil {
				t.Error(err)
			}
		default:
			http.NotFound(w, request)
		}
	}))
	defer mirror.Close()
	r := StartRegistry(
		t,
		fmt.Sprintf(
			`nix.packages={"channel": "nixos-77.05", "channels": %q, "archives": %q, "tags": ["*"]}`,
			mirror.URL, mirror.URL,
		),
	)
	odd := "_" + strings.Repeat("-.", 63) + "_"
	for _, tag := range []string{"latest", "nixos-77.05", "nixos-77.11", odd} {
		r.refuses(t, tag, http.StatusNotFound, "MANIFEST_UNKNOWN", fmt.Sprintf("tag \\\"%s\\\"", tag))
	}
	mu.Lock()
	revision = strings.Repeat("7", 40)
	mu.Unlock()
	r.CheckWhole(t, r.PullTag(t, "quick", "latest"))
	r.refuses(t, odd, http.StatusNotFound, "MANIFEST_UNKNOWN")
	if left := files(t, filepath.Join(r.Dir, "cache", "sources", "channels", "trees")); slices.ContainsFunc(
		left, func(name string) bool { return strings.Contains(name, ".new-") },
	) {
		t.Errorf("%q is left", left)
	}
}
