package integration

import (
	"crypto/rand"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names and tags that are meant to do harm, or only look like it, are refused with a word that
// names the thing. Nothing is built, and the registry goes on serving.
func TestHostileNames(t *testing.T) {
	set, salt := hostilePackages(t)
	r := StartRegistry(t, "nix.packages.path="+set)
	long := func(length int) string { return strings.Repeat("a", length) }
	manifest := func(name string) string { return "/v2/" + name + "/manifests/latest" }
	for _, test := range []struct {
		name, path string
		status     int
		text       string // in the body
	}{
		// Refused by the registry itself, which knows no such names.
		{"climbing", "/v2/hello/../../etc/manifests/latest", 301, ""},
		{"climbing, encoded", "/v2/%2e%2e/%2e%2e/etc/manifests/latest", 301, ""},
		{"a slash, encoded", "/v2/hello%2f..%2f..%2fetc/manifests/latest", 301, ""},
		{"an option", manifest("--help"), 404, ""},
		{"a short option", manifest("-I"), 404, ""},
		{"an option behind a package", manifest("hello/-I"), 404, ""},
		{"a dot first", manifest(".hello"), 404, ""},
		{"two dots inside", manifest("hello..src"), 404, ""},
		{"upper case", manifest("Hello"), 404, ""},
		{"unicode", manifest("h%C3%A9llo"), 404, ""},
		{"unicode digits", manifest("%D9%A3hello"), 404, ""},
		{"no text", manifest("hello%00"), 404, ""},
		{"a line break", manifest("hello%0Anix:+built"), 404, ""},
		{"shell text", manifest("$(reboot)"), 404, ""},
		{"a quote", manifest("hello%22+1"), 404, ""},
		{"interpolation", manifest("$%7Bhello%7D"), 404, ""},
		// To which the stock registry answers just so.
		{"256 characters", manifest(long(256)), 500, "must not be more than 255 characters"},
		{"10,000 characters", manifest(long(10_000)), 500, "must not be more than 255 characters"},
		{"a tag of 129 characters", "/v2/hello/manifests/" + long(129), 404, ""},
		{"a tag that is an option", "/v2/hello/manifests/--help", 404, ""},
		{"a tag with a slash, encoded", "/v2/hello/manifests/..%2f..%2fetc", 301, ""},
		{"a digest that is none", "/v2/hello/manifests/sha256:..", 404, ""},

		// Names of the registry's grammar that are no packages.
		{"255 characters", manifest(long(255)), 404, long(255)},
		{
			"30 long parts", manifest(strings.TrimSuffix(strings.Repeat("no-such-thing/", 18), "/")), 404,
			"no-such-thing",
		},
		{"many parts", manifest("a" + strings.Repeat("/a", 127)), 404, "a"},
		{
			"31 packages",
			manifest("a0/a1/a2/a3/a4/a5/a6/a7/a8/a9/b0/b1/b2/b3/b4/b5/b6/b7/b8/b9/c0/c1/c2/c3/c4/c5/c6/c7/c8/c9/d0"),
			404, "31 packages",
		},
		{"dashes inside", manifest("hello--help"), 404, "hello--help"},
		{"dots", manifest("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p"), 404, "a.b.c.d.e.f"},
		{"underscores", manifest("a__b"), 404, "a__b"},
		{"below a package", manifest("hello.src"), 403, "hello.src"},
		{"the builder's tools", manifest("hello.stdenv"), 403, "hello.stdenv"},
		{"the derivation's path", manifest("hello.drvpath"), 403, "hello.drvpath"},
		{"the output's path", manifest("hello.outpath"), 403, "hello.outpath"},
		{"an output that there is not", manifest("hello.dev"), 404, "hello has the output out"},
		{"a package's function", manifest("hello.override"), 403, "hello.override"},
		{"a package's tests", manifest("hello.passthru.tests.run"), 403, "hello.passthru.tests.run"},
		{"a path in the set", manifest("outpath"), 403, "outpath"},
		{"a function", manifest("mkdemo"), 403, "mkdemo"},
		{"below a function", manifest("mkdemo.x"), 404, "mkdemo.x"},
		{"a set that can be called", manifest("callable"), 403, "callable"},
		{"what calls it", manifest("callable.functor"), 404, "callable.functor"},
		{"a text in such a set", manifest("callable.x"), 403, "callable.x"},
		{"a set of functions", manifest("lib"), 403, "lib"},
		{"one of its functions", manifest("lib.id"), 403, "lib.id"},
		{"below one of them", manifest("lib.id.x"), 404, "lib.id.x"},
		{"the language's own functions", manifest("builtins"), 403, "builtins"},
		{"one that reads files", manifest("builtins.readfile"), 403, "builtins.readfile"},
		{"the same again inside", manifest("builtins.builtins.builtins"), 403, "builtins.builtins.builtins"},
		{"a list", manifest("list"), 403, "list"},
		{"in a list", manifest("list.0"), 404, "list.0"},
		{"no derivation, though it says so", manifest("fake"), 403, "fake"},
		{"out of the store", manifest("climbing"), 403, "climbing"},
		{"a package and a function", manifest("hello/mkdemo"), 403, "mkdemo"},
		{"meta-packages alone", manifest("amd64"), 404, "amd64"},
		{"two platforms", manifest("amd64/arm64/hello"), 404, "amd64 and arm64"},
		{"a meta-package behind a package", manifest("hello/shell"), 404, "shell"},

		// Tags that are none of the package set's.
		{"a tag of 128 odd characters", "/v2/hello/manifests/_" + strings.Repeat("-.", 63) + "_", 404, "-.-.-."},
		{"a tag that looks like a commit", "/v2/hello/manifests/" + strings.Repeat("0123456789", 4), 404, "0123456789"},
		{"a tag that looks like the set's hash", "/v2/hello/manifests/" + strings.Repeat("abcd", 16), 404, "abcd"},
		{"a tag that looks like a channel", "/v2/hello/manifests/nixos-unstable", 404, "nixos-unstable"},
		{"a tag of dots", "/v2/hello/manifests/_..", 404, "_.."},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, _, body, err := r.Get(t.Context(), test.path, v1.MediaTypeImageManifest)
			if err != nil {
				t.Fatal(err)
			}
			if status != test.status || !strings.Contains(string(body), test.text) {
				t.Errorf("the answer is %d %s, want %d with %q", status, body, test.status, test.text)
			}
			for _, secret := range []string{set, r.Dir} {
				if strings.Contains(string(body), secret) {
					t.Errorf("the answer tells the host's path %s: %s", secret, body)
				}
			}
		})
	}
	for _, client := range []struct {
		tool string
		args []string
	}{
		{"skopeo", []string{"inspect", "--tls-verify=false", "docker://"}},
		{"crane", []string{"manifest", "--insecure", ""}},
	} {
		for name, reason := range map[string]string{
			"hello.src": "denied", "outpath": "denied", "builtins": "denied", "lib.id": "denied",
			"mkdemo.x": "unknown", "a.b.c.d": "unknown", "hello--help": "unknown", long(200): "unknown",
		} {
			t.Run(client.tool+"/"+name[:min(len(name), 20)], func(t *testing.T) {
				Needs(t, client.tool)
				args := slices.Clone(client.args)
				args[len(args)-1] += r.Ref(name)
				_, stderr, err := TryExec(t.Context(), client.tool, args...)
				_, answer, found := strings.Cut(strings.ToLower(stderr), reason+": ")
				if err == nil || !found || !strings.Contains(answer, name) {
					t.Errorf("%s: %v, %s, want %s", client.tool, err, stderr, reason)
				}
			})
		}
	}
	for _, text := range []string{logBuilt, "derivations and downloading", "can't be built at the moment"} {
		if strings.Contains(r.Log(), text) {
			t.Errorf("the log has %q", text)
		}
	}
	if made := storePathsOf(t, salt); len(made) > 0 {
		t.Errorf("the store has %q", made)
	}
	r.CheckWhole(t, r.Pull(t, "hello"))
	if made := storePathsOf(t, salt); len(made) == 0 {
		t.Error("the store has nothing even of what was pulled")
	}
}

// hostilePackages is a copy of testdata/hostile, and the salt that is in the names of all its store
// paths.
func hostilePackages(t *testing.T) (set, salt string) {
	t.Helper()
	set, salt = FreshPackages(t), strings.ToLower(rand.Text())
	if err := copyFile(
		filepath.Join("testdata", "hostile", "default.nix"), filepath.Join(set, "default.nix"),
	); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(set, "salt"), salt)
	return set, salt
}

// storePathsOf are the store paths that have a salt in their names, but for derivations that were
// only evaluated.
func storePathsOf(t *testing.T, salt string) []string {
	t.Helper()
	made, err := filepath.Glob("/nix/store/*" + salt + "*")
	if err != nil {
		t.Fatal(err)
	}
	return made
}
