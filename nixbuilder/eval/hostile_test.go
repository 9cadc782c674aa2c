package eval

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHostileExpressions evaluates expressions that try to read the host, run programs or reach
// servers, in sets that may fetch and in sets that are not known to. Anything that they found out
// would be in their results.
func TestHostileExpressions(t *testing.T) {
	const canary = "CANARY"
	t.Setenv("AWS_SECRET_ACCESS_KEY", canary)
	outside := openDir(t, "outside")
	for _, name := range []string{"secret", "secret.nix"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte(`"`+canary+`"`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	valid, err := filepath.Glob("/nix/store/*-*")
	if err != nil || len(valid) == 0 {
		t.Fatal("there is no store path to ask for: ", err)
	}
	const (
		forbidden = "forbidden in restricted mode"
		absent    = "attribute '"
	)
	type probe struct{ name, expression, want string }
	probes := []probe{
		{"a file", `builtins.readFile "OUT/secret"`, ""},
		{"a file, as a path", `builtins.readFile OUT/secret`, ""},
		{"a file above the set", `builtins.readFile (./. + "/../../BASE/secret")`, ""},
		{"a link out of the set", `builtins.readFile ./link`, ""},
		{"a directory", `toString (builtins.attrNames (builtins.readDir OUT))`, ""},
		{
			"a directory of the host",
			`toString (builtins.attrNames (builtins.readDir "/etc"))`,
			"",
		}, // of "/", later Nix tells the way to the set
		{"the store", `toString (builtins.attrNames (builtins.readDir "/nix/store"))`, ""},
		{"its environment", `builtins.readFile "/proc/self/environ"`, ""},
		{"its command", `builtins.readFile "/proc/self/cmdline"`, ""},
		{"an import", `import OUT/secret.nix`, ""},
		{"an import by scope", `builtins.scopedImport { } OUT/secret.nix`, ""},
		{"a copy", `builtins.readFile (builtins.path { path = OUT/secret; })`, ""},
		{"a copy by name", `builtins.readFile "${OUT/secret}"`, ""},
		{
			"a filtered copy",
			`toString (builtins.attrNames (builtins.readDir (builtins.filterSource (_: _: true) OUT)))`,
			"",
		},
		{"a hash", `builtins.hashFile "sha256" OUT/secret`, ""},
		{"a store path", `builtins.readFile (builtins.storePath VALID + "/secret")`, ""},
		{"a search path", `import <nixpkgs>`, "nixpkgs"},
		{"a program", `builtins.exec [ "cat" "OUT/secret" ]`, absent},
		{"native code", `builtins.importNative OUT/secret.nix "x"`, absent},
		{"a flake", `builtins.getFlake "path:OUT"`, ""},
		{"a tree", `builtins.readFile ((builtins.fetchTree { type = "path"; path = "OUT"; }) + "/secret")`, ""},
		{"a URL of a file", `builtins.readFile (builtins.fetchurl "file://OUT/secret")`, forbidden},
		{"an archive of a file", `import (builtins.fetchTarball "file://OUT/secret")`, forbidden},
		{"a server", `builtins.readFile (builtins.fetchurl "http://127.0.0.1:1/x")`, forbidden},
		{"a repository", `toString (builtins.fetchGit "OUT")`, ""},
		{"a repository by URL", `toString (builtins.fetchGit "file://OUT")`, ""},
		{"a repository that is a program", `toString (builtins.fetchGit "ext::sh -c cat% OUT/secret% >&2")`, ""},
		{
			"a repository with an option",
			`toString (builtins.fetchGit { url = "https://127.0.0.1:1/x"; ref = "--upload-pack=touch OUT/made"; })`,
			"",
		},
		{
			"a repository over ssh with an option",
			`toString (builtins.fetchGit "ssh://-oProxyCommand=touch%20OUT/made/x")`,
			"",
		},
		{"a repository of Mercurial", `toString (builtins.fetchMercurial "--config=alias.clone=!touch OUT/made")`, ""},
		{
			"what is built",
			`builtins.readFile (derivation { name = "x"; system = builtins.currentSystem or "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "cat OUT/secret > $out" ]; })`,
			"",
		},
	}
	quiet := []probe{ // not refused, and nothing is told
		{
			"a variable",
			`"<" + builtins.getEnv "AWS_SECRET_ACCESS_KEY" + builtins.getEnv "HOME" + builtins.getEnv "PATH" + ">"`,
			"<>",
		},
		{"whether a file is there", `builtins.toJSON (builtins.pathExists OUT/secret)`, "false"},
		{"whether a directory is there", `builtins.toJSON (builtins.pathExists "/nix/store")`, "false"},
	}
	for _, options := range []Options{{}, {AllowedURIs: []string{"https://"}}} {
		t.Run(fmt.Sprint("allowed ", options.AllowedURIs), func(t *testing.T) {
			e, _ := newEvaluator(t, options)
			for _, p := range append(probes, quiet...) {
				t.Run(p.name, func(t *testing.T) {
					words := strings.NewReplacer("OUT", outside, "BASE", filepath.Base(outside), "VALID", valid[0])
					expression := words.Replace(p.expression)
					set := writeSet(t, "default.nix", "{ ... }: { probe = throw (\"it is known: \" + "+expression+"); }")
					if err := os.Symlink(
						filepath.Join(outside, "secret"), filepath.Join(set.Path, "link"),
					); err != nil {
						t.Fatal(err)
					}
					results, err := e.Evaluate(t.Context(), set, system, []string{"probe"})
					if err != nil {
						t.Fatal(err)
					}
					failure := results["probe"].Failure
					if failure == nil {
						t.Fatalf("it is a package: %+v", results["probe"].Package)
					}
					told := strings.Contains(failure.Message, "it is known")
					if expected := p.want == "<>" || p.want == "false"; told != expected ||
						!strings.Contains(failure.Message, p.want) ||
						strings.Contains(failure.Message, canary) {
						t.Errorf("the answer is %q", failure.Message)
					}
				})
			}
		})
	}
	if there, _ := os.ReadDir(outside); len(there) != 2 {
		t.Errorf("something was made: %v", there)
	}
}
