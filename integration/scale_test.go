package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/integration/nixpkgslike"
)

// A set like nixpkgs has here four times as many packages and aliases at its top level, and half as
// many files: making, copying and removing those is what takes the time of the test.
const (
	scaleAttributes = 100_000
	scaleFiles      = 20_000
)

// scaleSet makes a package set of nixpkgs' size and shape. That takes some seconds.
func scaleSet(t testing.TB) (dir string, set nixpkgslike.Set) {
	t.Helper()
	demo := DemoPackages(t)
	dir = Dir(t)
	t.Cleanup(func() { os.RemoveAll(dir) })
	set, err := nixpkgslike.Write(dir, demo, scaleAttributes, scaleFiles)
	if err != nil {
		t.Fatal(err)
	}
	return dir, set
}

// TestScale serves a package set of nixpkgs' size, with less memory for evaluations than is the
// default.
func TestScale(t *testing.T) {
	t.Parallel()
	dir, set := scaleSet(t)
	r := StartRegistry(t, "nix.packages.path="+dir, "nix.nix.evaluationmemory=800MiB", "nix.build.hold=300s")
	t.Cleanup(func() { os.RemoveAll(filepath.Join(r.Dir, "cache")) })

	ten := slices.Concat(
		[]string{"hello", "jq"}, set.Plain[:3], lower(set.Capitals[0]), lower(set.Overridden[0]),
		set.Renamed[:1], lower(set.Python[0]), lower(set.Haskell[0]),
	)
	image := strings.Join(ten, "/")
	started := len(r.Programs())
	first := r.Pull(t, image)
	r.CheckWhole(t, first)
	programs := r.Programs()
	// One finds all names, and one writes what has to be built, unless an earlier run of this test
	// has had it built.
	if runs := strings.Count(strings.Join(programs[started:], " "), "nix-instantiate"); runs > 2 {
		t.Errorf("%d runs of nix-instantiate for ten names: %q", runs, programs)
	}
	if again := r.Pull(t, image); again.Digest != first.Digest || !slices.Equal(r.Programs(), programs) {
		t.Errorf(
			"asked again, it has digest %s, had %s, after the programs %q", again.Digest, first.Digest,
			r.Programs()[len(programs):],
		)
	}
	r.Stop()
	r.Start()
	if again := r.Pull(t, image); again.Digest != first.Digest {
		t.Errorf("after a restart, it has digest %s, had %s", again.Digest, first.Digest)
	}

	for name, same := range map[string]string{
		"7zz": "tree", "1password-cli": "hello", "pkgs.pkgs.jq": "jq", "pkgsstatic.hello": "hello",
		"hello.out": "hello",
	} {
		if a, b := r.Pull(t, name), r.Pull(t, same); a.Layers[0].Digest != b.Layers[0].Digest {
			t.Errorf("%s is not %s", name, same)
		}
	}

	typo := func(name string) string { return name[:len(name)-1] + "0" }
	cases := []struct {
		name, image string
		status      int
		texts       []string // in the body
	}{
		{
			"a typo",
			typo(set.Plain[3]),
			http.StatusNotFound,
			[]string{"there is no package " + typo(set.Plain[3]), "did you mean", set.Plain[3]},
		},
		{
			"a typo in lower case",
			strings.ToLower(typo(set.Capitals[3])),
			http.StatusNotFound,
			[]string{"did you mean", strings.ToLower(set.Capitals[3])},
		},
		{
			"a typo in a nested set",
			strings.ToLower(typo(set.Haskell[0])),
			http.StatusNotFound,
			[]string{"did you mean", strings.ToLower(set.Haskell[0])},
		},
		{"letters in another order", "gti", http.StatusNotFound, []string{"did you mean git"}},
		{"letters in another order at the beginning", "thop", http.StatusNotFound, []string{"did you mean htop"}},
		{"the beginning of a name", "coreu", http.StatusNotFound, []string{"did you mean coreutils"}},
		{"a typo after a digit", "1passwrd", http.StatusNotFound, []string{"did you mean 1password"}},
		{"nothing like it", "0000000000", http.StatusNotFound, []string{"there is no package 0000000000"}},
		{
			"an alias that throws",
			set.Removed[0],
			http.StatusForbidden,
			[]string{set.Removed[0] + "' has been removed as it was unmaintained upstream"},
		},
		{
			"unfree",
			set.Unfree[0],
			http.StatusForbidden,
			[]string{
				set.Unfree[0],
				"has an unfree license (‘unfree’) (the operator of this registry can allow it: packages.config: {allowUnfree: true})",
			},
		},
		{
			"broken",
			set.Broken[0],
			http.StatusForbidden,
			[]string{
				set.Broken[0],
				"has problems: broken: This package is broken. (the operator of this registry can allow it: packages.config: {allowBroken: true})",
			},
		},
		{
			"insecure",
			set.Insecure[0],
			http.StatusForbidden,
			[]string{
				set.Insecure[0],
				"is marked as insecure; known issues: CVE-2024-0001 (the operator of this registry can allow it: packages.config: {permittedInsecurePackages: ",
			},
		},
		{
			"for another platform",
			set.Unsupported[0],
			http.StatusForbidden,
			[]string{set.Unsupported[0], "is not available on the requested hostPlatform: hostPlatform.system = "},
		},
		{
			"a name that only Nix begins with an underscore",
			"1password",
			http.StatusForbidden,
			[]string{"'1password' has been renamed to/replaced by '1password-cli'"},
		},
		{
			"an alias with capitals",
			"pythonpackages.requests",
			http.StatusForbidden,
			[]string{"use `python3packages` instead"},
		},
		{"in a set that is gone", "nodepackages.npm", http.StatusForbidden, []string{"nodePackages has been removed"}},
		{
			"compiled for another platform",
			"pkgscross.aarch64-multiplatform.hello",
			http.StatusForbidden,
			[]string{"is a package for aarch64-linux"},
		},
		{
			"a part of a package",
			set.Plain[0] + ".src",
			http.StatusForbidden,
			[]string{
				set.Plain[0] + ".src is a part of the package " + set.Plain[0] + ", not a package: " +
					set.Plain[0] + " has the output out",
			},
		},
		{"a nested set", "haskellpackages", http.StatusForbidden, []string{"haskellpackages is of type attribute set"}},
	}
	for _, test := range cases {
		status, _, body, err := r.Get(
			t.Context(), "/v2/"+strings.ToLower(test.image)+"/manifests/latest", v1.MediaTypeImageManifest,
		)
		if err != nil || status != test.status {
			t.Errorf("%s: status %d, want %d: %s %v", test.name, status, test.status, body, err)
		}
		for _, text := range test.texts {
			if !strings.Contains(string(body), text) {
				t.Errorf("%s: the answer %s does not have %q", test.name, body, text)
			}
		}
		if strings.Contains(string(body), dir) || strings.Contains(string(body), r.Dir) {
			t.Errorf("%s: the answer has a path of this host: %s", test.name, body)
		}
	}

	// One file of all is broken: its package says where, and all others are as they were.
	broken := set.Plain[4]
	file := filepath.Join(dir, "pkgs", "by-name", broken[:2], broken, "package.nix")
	whole := Read(t, file)
	Write(t, file, whole+"}")
	status, _, body, err := r.Get(t.Context(), "/v2/hello/"+broken+"/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusForbidden ||
		!strings.Contains(string(body), "syntax error, unexpected '}'") ||
		!strings.Contains(string(body), "(packages/pkgs/by-name/"+broken[:2]+"/"+broken+"/package.nix:") {
		t.Errorf("with a syntax error in %s, the answer is %d %s, %v", broken, status, body, err)
	}
	status, _, body, err = r.Get(t.Context(), "/v2/"+typo(broken)+"/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusNotFound || !strings.Contains(string(body), "did you mean") {
		t.Errorf("with a syntax error in %s, a typo is answered with %d %s, %v", broken, status, body, err)
	}
	if again := r.Pull(t, image); again.Layers[0].Digest != first.Layers[0].Digest {
		t.Errorf("with a syntax error in %s, %s is another image", broken, image)
	}
	Write(t, file, whole)
	r.Pull(t, broken)

	engine := Engines[0]
	engine.Pull(t, r.Ref(image))
	for name, want := range map[string]string{
		set.Plain[0]: set.Plain[0] + " ", set.Capitals[0]: set.Capitals[0] + " ", "hello": "Hello, world!",
	} {
		if got := engine.Run(t, "--network", "none", r.Ref(image), name); !strings.HasPrefix(got, want) {
			t.Errorf("%s in %s wrote %q", name, image, got)
		}
	}
}

func lower(names ...string) []string {
	var all []string
	for _, name := range names {
		all = append(all, strings.ToLower(name))
	}
	return all
}

// TestEndlessEvaluations asks for packages whose evaluation does not end, or takes all memory. They
// are refused within the limits, and others are served meanwhile, although one evaluation at a time
// is all that is configured.
func TestEndlessEvaluations(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	if err := os.Rename(filepath.Join(packages, "default.nix"), filepath.Join(packages, "fresh.nix")); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(packages, "default.nix"), `{ system, ... }:
let
  inherit (builtins) deepSeq foldl' genList;
  # The thousands of years that it takes are spent without memory.
  spin = depth: foldl' (_: _: if depth == 0 then 0 else spin (depth - 1)) 0 (genList (n: n) 1000);
  fresh = import ./fresh.nix { inherit system; };
in
fresh
// {
  endless.a = fresh.quick // { name = deepSeq (spin 9) "a"; };
  endless.b = fresh.quick // { name = deepSeq (spin 9) "b"; };
  greedy = fresh.quick // { name = deepSeq (genList (n: { inherit n; }) 1000000000) "greedy"; };
}
`)
	r := StartRegistry(
		t, "nix.packages.path="+packages, "nix.nix.evaluationtime=7s", "nix.nix.evaluationmemory=1GiB",
		"nix.build.concurrency=1", "nix.build.hold=300s",
	)
	type answer struct {
		image, body string
		status      int
		err         error
	}
	answers := make(chan answer, 3)
	ask := func(image string) {
		status, _, body, err := r.Get(t.Context(), "/v2/"+image+"/manifests/latest", v1.MediaTypeImageManifest)
		answers <- answer{image, string(body), status, err}
	}
	evaluations := func() int { return strings.Count(strings.Join(r.Programs(), " "), "nix-instantiate") }
	before := evaluations()
	go ask("endless.a")
	Eventually(t, commandTime, "an evaluation begins", func() bool { return evaluations() > before })
	go ask("endless.b")
	go ask("endless.b/quick") // it does not keep others from having the package quick

	r.Pull(t, "sleeps.s0")
	r.Pull(t, "quick")
	served := len(answers)
	for i := range cap(answers) {
		a := <-answers
		if i < served && a.image != "endless.a" {
			t.Errorf("%s was answered before others were served", a.image)
		}
		if a.err != nil || a.status != http.StatusForbidden || !strings.Contains(a.body, "too much processor time") {
			t.Errorf("%s is answered with %d %s %v", a.image, a.status, a.body, a.err)
		}
	}
	go ask("greedy")
	if a := <-answers; a.err != nil || a.status != http.StatusForbidden ||
		!strings.Contains(a.body, "too much memory") {
		t.Errorf("%s is answered with %d %s %v", a.image, a.status, a.body, a.err)
	}
	r.Pull(t, "sleeps.s1")
}
