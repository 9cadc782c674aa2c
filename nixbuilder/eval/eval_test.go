package eval

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const system = "x86_64-linux"

// newEvaluator makes an evaluator with tight limits.
func newEvaluator(t *testing.T, options Options) (*Evaluator, *proc.Runner) {
	t.Helper()
	needs.Tool(t, "nix-instantiate")
	runner, _ := proc.New()
	if options.CPU == 0 {
		options.CPU = 5 * time.Second
	}
	if options.Memory == 0 {
		options.Memory = 768 << 20
	}
	e, err := New(t.Context(), runner, options)
	if err != nil {
		t.Fatal(err)
	}
	return e, runner
}

// An error of Nix itself names the file of the expression, which has hundreds of lines.
func TestErrorNamesExpression(t *testing.T) {
	nix := filepath.Join(openDir(t, "nix"), "nix-instantiate")
	const failing = `#!/bin/sh
case "$*" in
--version) echo "nix-instantiate (Nix) 2.8.0" ;;
*__contentAddressed*) ;;
*) exit 1 ;;
esac
`
	if err := os.WriteFile(nix, []byte(failing), 0o755); err != nil {
		t.Fatal(err)
	}
	runner, _ := proc.New()
	e, err := New(t.Context(), runner, Options{NixInstantiate: nix})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"default.nix": `"--expr" "prepare-image/packages.nix" "--argstr"`,
		"flake.nix":   `"--arg" "flake" "prepare-image/flake.nix" "--argstr"`,
	} {
		set := openDir(t, "set")
		if err := os.WriteFile(filepath.Join(set, file), []byte("{ }"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err = e.Evaluate(t.Context(), Source{Path: set}, system, []string{"hello"})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "builtins") {
			t.Errorf("with %s the error is %v, want one with %s", file, err, want)
		}
	}
}

// openDir is a temporary directory that every user can read; those of t.TempDir are not.
func openDir(t *testing.T, pattern string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What Nix has put into a store cannot be written to, nor removed by another than root.
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				err = os.Chmod(path, 0o755)
			}
			return err
		})
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// testSet is a copy of testdata/set with a link that leads out of it.
func testSet(t *testing.T) Source {
	t.Helper()
	dir := openDir(t, "a=b c") + "/set"
	if err := os.CopyFS(dir, os.DirFS("testdata/set")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	return Source{Path: dir}
}

// writeSet makes a package set of one text.
func writeSet(t *testing.T, file, text string) Source {
	t.Helper()
	path := filepath.Join(openDir(t, "a=b c"), file)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if file == "default.nix" {
		path = filepath.Dir(path)
	}
	return Source{Path: path}
}

// TestGolden compares results with those that Nix gave when it was asked directly; see
// testdata/golden.sh.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Nix      string
		Packages map[string]struct {
			DrvPath store.Path
			Outputs map[string]store.Path
		}
	}
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	e, runner := newEvaluator(t, Options{})
	before := runner.Started()
	results, err := e.Evaluate(t.Context(), testSet(t), system, slices.Sorted(maps.Keys(golden.Packages)))
	if err != nil {
		t.Fatal(err)
	}
	if n := runner.Started() - before; n != 1 {
		t.Errorf("%d processes for healthy names, want 1", n)
	}
	if len(results) != len(golden.Packages) || len(results) == 0 {
		t.Errorf("%d results, want %d", len(results), len(golden.Packages))
	}
	for name, want := range golden.Packages {
		p := results[name].Package
		if p == nil {
			t.Errorf("%s: %+v", name, results[name].Failure)
			continue
		}
		if p.Derivation != want.DrvPath || !maps.Equal(p.Outputs, want.Outputs) {
			t.Errorf(
				"%s: %s %v, Nix %s has %s %v", name, p.Derivation, p.Outputs, golden.Nix, want.DrvPath,
				want.Outputs,
			)
		}
	}
}

func TestPackages(t *testing.T) {
	value := func(s string) *string { return &s }
	names := map[string]Package{
		"hello": {
			Attr: []string{"hello"}, Pname: "hello", Version: "2.12.1", MainProgram: "hello", Priority: 4,
			Description: "A program that greets", Licenses: []string{"GPL-3.0-or-later"},
			OutputsToInstall: []string{"out"},
			Image: &Image{
				Entrypoint: []string{"hello", "-g"}, Cmd: []string{}, Env: map[string]string{"LANG": "C.UTF-8"},
				User: value("1000:1000"),
				WorkingDir: value(
					"/srv",
				), Labels: map[string]string{"org.example.a": "b"}, ExposedPorts: []string{"80", "53/udp"},
			},
		},
		"several.dev": {
			Attr:             []string{"several"},
			Output:           "dev",
			Pname:            "several",
			Version:          "1",
			Licenses:         []string{"MIT", "Own license"},
			OutputsToInstall: []string{"dev"},
		},
		"several.MAN": {
			Attr:             []string{"several"},
			Output:           "man",
			Pname:            "several",
			Version:          "1",
			Licenses:         []string{"MIT", "Own license"},
			OutputsToInstall: []string{"man"},
		},
		"twinOutputs.Doc": {
			Attr:             []string{"twinOutputs"},
			Output:           "Doc",
			Pname:            "twin-outputs",
			Version:          "1",
			OutputsToInstall: []string{"Doc"},
		},
		"severalDev": {
			Attr:             []string{"severalDev"},
			Pname:            "several",
			Version:          "1",
			Licenses:         []string{"MIT", "Own license"},
			OutputsToInstall: []string{"dev"},
		},
		"plainDev": {
			Attr:             []string{"plainDev"},
			Pname:            "several",
			Version:          "1",
			OutputsToInstall: []string{"dev"},
		},
		"metaless.out": {
			Attr:             []string{"metaless"},
			Output:           "out",
			Pname:            "metaless",
			Version:          "1",
			OutputsToInstall: []string{"out"},
		},
		"stdenv.cc.cc.lib": {
			Attr:             []string{"stdenv", "cc", "cc"},
			Output:           "lib",
			Pname:            "gcc",
			Version:          "15",
			OutputsToInstall: []string{"lib"},
		},
		"hello.stdenv.cc.out": {
			Attr:             []string{"hello", "stdenv", "cc"},
			Output:           "out",
			Pname:            "cc",
			OutputsToInstall: []string{"out"},
		},
		"several": {
			Attr:             []string{"several"},
			Pname:            "several",
			Version:          "1",
			Licenses:         []string{"MIT", "Own license"},
			OutputsToInstall: []string{"bin", "man"},
		},
		"careless": {Attr: []string{"careless"}, Pname: "careless", Version: "1"},
		"metaless": {Attr: []string{"metaless"}, Pname: "metaless", Version: "1"},

		"1password":             {Attr: []string{"_1password"}, Pname: "1password", Version: "8"},
		"1up":                   {Attr: []string{"_1Up"}, Pname: "1up", Version: "1"},
		"dotted.name":           {Attr: []string{"dotted.name"}, Pname: "dotted", Version: "1"},
		"-dash":                 {Attr: []string{"-dash"}, Pname: "dash", Version: "1"},
		`quote"${x}`:            {Attr: []string{`quote"${x}`}, Pname: "quote", Version: "1"},
		"ümlaut":                {Attr: []string{"ümlaut"}, Pname: "umlaut", Version: "1"},
		"haskellpackages.hlint": {Attr: []string{"haskellPackages", "HLint"}, Pname: "hlint", Version: "3"},
		"haskellPackages.deeper.PKG_config": {
			Attr:    []string{"haskellPackages", "deeper", "pkg_config"},
			Pname:   "pkg-config",
			Version: "1",
		},
		"python3":       {Attr: []string{"Python3"}, Pname: "python3", Version: "3.11"},
		"Twin":          {Attr: []string{"Twin"}, Pname: "twin", Version: "1"},
		"aliases.hello": {Attr: []string{"aliases", "hello"}, Pname: "hello", Version: "2.12.1"},
	}
	e, runner := newEvaluator(t, Options{})
	before := runner.Started()
	results, err := e.Evaluate(
		t.Context(), testSet(t), system, append(slices.Collect(maps.Keys(names)), "hello", "hello"),
	)
	if err != nil {
		t.Fatal(err)
	}
	if n := runner.Started() - before; n != 1 {
		t.Errorf("%d processes, want 1", n)
	}
	for name, want := range names {
		t.Run(name, func(t *testing.T) {
			got := results[name].Package
			if got == nil {
				t.Fatalf("failure %+v", results[name].Failure)
			}
			if want.Priority == 0 {
				want.Priority = 5
			}
			if want.OutputsToInstall == nil {
				want.OutputsToInstall = []string{"out"}
			}
			if want.Licenses == nil {
				want.Licenses = []string{}
			}
			want.System = system
			want.Derivation, want.Outputs = got.Derivation, got.Outputs // TestGolden's
			if !reflect.DeepEqual(*got, want) {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
			if !results[name].Cacheable() {
				t.Error("not cacheable")
			}
		})
	}
	if results["aliases.hello"].Package.Derivation == results["Twin"].Package.Derivation {
		t.Error("different packages have the same derivation")
	}
}

// A walk lists what is in sets, and does not ask again about packages that refuse.
func TestWalk(t *testing.T) {
	e, runner := newEvaluator(t, Options{})
	before := runner.Started()
	results, err := e.Walk(
		t.Context(), testSet(t), system,
		[]string{"", "hello", "haskellPackages", "searched", "unfree", "throws"},
	)
	if err != nil {
		t.Fatal(err)
	}
	if n := runner.Started() - before; n != 1 {
		t.Errorf("%d processes, want 1", n)
	}
	if results["hello"].Package == nil {
		t.Errorf("hello is %+v", results["hello"].Failure)
	}
	if whole := results[""].Failure; whole == nil || !slices.Contains(whole.Attributes, "haskellPackages") ||
		!slices.Contains(whole.Attributes, "unfree") {
		t.Errorf("the whole set is %+v", whole)
	}
	for _, test := range []struct {
		name string
		want Failure
	}{
		{"haskellPackages", Failure{Kind: NotPackage, Attributes: []string{"HLint", "deeper"}}},
		{"searched", Failure{Kind: NotPackage, Attributes: []string{"recurseForDerivations", "tool"}, Recurse: true}},
		{"unfree", Failure{Kind: Throws}},
		{"throws", Failure{Kind: Throws}},
	} {
		got := results[test.name].Failure
		if got == nil || got.Kind != test.want.Kind || got.Recurse != test.want.Recurse ||
			!slices.Equal(got.Attributes, test.want.Attributes) {
			t.Errorf("%s is %+v, want %+v", test.name, got, test.want)
		}
	}
	results, err = e.Evaluate(t.Context(), testSet(t), system, []string{"", "haskellPackages"})
	if err != nil || results[""].Failure.Kind != NotFound || results["haskellPackages"].Failure.Attributes != nil {
		t.Errorf("without a walk: %v, %+v", err, results)
	}
}

func TestFailures(t *testing.T) {
	source := testSet(t)
	for _, test := range []struct {
		name      string
		want      Failure // Message: a part of it
		processes int64   // beyond the first; -1: more than one may be needed
	}{
		{"helo", Failure{Kind: NotFound, Message: "no package helo", NearMisses: []string{"hello"}}, 0},
		{"python", Failure{Kind: NotFound, NearMisses: []string{"python3", "python3packages"}}, 0},
		{"haskellpackages.hlin", Failure{Kind: NotFound, NearMisses: []string{"haskellpackages.hlint"}}, 0},
		{"zzzzz", Failure{Kind: NotFound}, 0},
		{"text.hello", Failure{Kind: NotFound}, 0},
		{"function.x", Failure{Kind: NotFound}, 0},
		{"", Failure{Kind: NotFound}, 0},
		{".", Failure{Kind: NotFound}, 0},
		{"..", Failure{Kind: NotFound}, 0},
		{"hello.", Failure{Kind: NotFound}, 0},
		{"--option", Failure{Kind: NotFound}, 0},
		{"../../etc/passwd", Failure{Kind: NotFound}, 0},
		{"${builtins.abort \"x\"}", Failure{Kind: NotFound}, 0},
		{"$(id)", Failure{Kind: NotFound}, 0},
		{"two\nlines", Failure{Kind: NotFound, Message: `"two\nlines"`}, 0},
		{"nul\x00", Failure{Kind: NotFound}, 0},
		{"not utf-8 \xff", Failure{Kind: NotFound}, 0},
		{"包裹", Failure{Kind: NotFound, Message: "包裹"}, 0},
		{strings.Repeat("a", 255), Failure{Kind: NotFound}, 0},
		{strings.Repeat("a.", 127), Failure{Kind: NotFound}, 0},
		{strings.Repeat("a", 256), Failure{Kind: NotFound}, 0},
		{"twin", Failure{Kind: Ambiguous, Message: "TWIN, Twin", Candidates: []string{"TWIN", "Twin"}}, 0},

		{"hello.src", Failure{Kind: NotPackage, Message: "hello.src is a part of the package hello"}, 0},
		{"hello.src.out", Failure{Kind: NotPackage, Message: "hello.src.out is a part of the package hello"}, 0},
		{"hello.stdenv", Failure{Kind: NotPackage, Message: "not a package: hello has the output out"}, 0},
		{"hello.stdenv.cc", Failure{Kind: NotPackage}, 0},
		{"hello.meta", Failure{Kind: NotPackage}, 0},
		{"hello.passthru.inner.out", Failure{Kind: NotPackage}, 0},
		{"hello.throws.out", Failure{Kind: Throws, Message: "inside hello"}, 1},
		{
			"several.out",
			Failure{Kind: NotFound, Message: "there is no package several.out: several has the outputs bin, dev, man"},
			0,
		},
		{
			"several.dve",
			Failure{Kind: NotFound, Message: "several has the outputs", NearMisses: []string{"several.dev"}},
			0,
		},
		{"several.dev.src", Failure{Kind: NotFound}, 0},
		{"stdenv.cc", Failure{Kind: NotPackage, Message: "stdenv.cc is a part of the package stdenv"}, 0},
		{"stdenv.cc.cc.nolib", Failure{Kind: NotFound, Message: "stdenv.cc.cc has the outputs lib, out"}, 0},
		{"twinOutputs.DOC", Failure{Kind: Ambiguous, Candidates: []string{"twinOutputs.doc", "twinOutputs.Doc"}}, 0},
		{"noSuchOutput", Failure{Kind: NotPackage, Message: "no output gone"}, 0},
		{"function", Failure{Kind: NotPackage, Message: "of type function"}, 0},
		{"functor", Failure{Kind: NotPackage, Message: "of type function"}, 0},
		{"haskellpackages", Failure{Kind: NotPackage, Message: "of type attribute set"}, 0},
		{"text", Failure{Kind: NotPackage, Message: "of type string"}, 0},
		{"number", Failure{Kind: NotPackage}, 0},
		{"unset", Failure{Kind: NotPackage}, 0},
		{"forged", Failure{Kind: NotPackage}, 0},
		{"forgedOutput", Failure{Kind: NotPackage}, 0},
		{"noOutput", Failure{Kind: NotPackage, Message: "no output"}, 0},

		{"unfree", Failure{Kind: Unfree, Message: "in packages/default.nix:1 has an unfree license"}, 1},
		{"broken", Failure{Kind: Broken}, 1},
		{"insecure", Failure{Kind: Insecure}, 1},
		{"elsewhere", Failure{Kind: Unsupported}, 1},
		{"throws", Failure{Kind: Throws, Message: "not\ntoday"}, 1},
		{"asserts", Failure{Kind: Throws, Message: "assertion 'false' failed"}, 1},
		{"nestedthrows.inner", Failure{Kind: Throws, Message: "inside"}, 1},
		{"setthrows.inner", Failure{Kind: Throws, Message: "a set that refuses"}, 1},

		{"aborts", Failure{Kind: Crashes, Message: "enough"}, 0},
		{"typeError", Failure{Kind: Crashes, Message: "cannot add a string to an integer (packages/default.nix:"}, 0},
		{"missing", Failure{Kind: Crashes, Message: "attribute 'gone' missing"}, 0},
		{"missing.further", Failure{Kind: Crashes, Message: "attribute 'gone' missing"}, 0},
		{"recursion", Failure{Kind: Crashes, Message: "infinite recursion encountered"}, 0},
		{"overflow", Failure{Kind: Crashes, Message: "stack overflow"}, 0},
		{"typeErrorInside", Failure{Kind: Crashes, Message: "cannot add a string"}, 0},

		{"imageKey", Failure{Kind: BadImage, Message: "passthru.image.entryPoint is not a key"}, 0},
		{
			"imageType",
			Failure{
				Kind:    BadImage,
				Message: "passthru.image.cmd is not a list of strings; passthru.image.env is not an attribute set of strings; passthru.image.user is not a string",
			},
			0,
		},
		{"imageFunction", Failure{Kind: BadImage, Message: "passthru.image is not an attribute set"}, 0},
		{"imagePort", Failure{Kind: BadImage, Message: `passthru.image.exposedports has "http"`}, 0},
		{"imageEnv", Failure{Kind: BadImage, Message: `passthru.image.env has "A=B"`}, 0},
		{"imageThrows", Failure{Kind: Throws, Message: "no command"}, 1},

		{"memory", Failure{Kind: Limit, Message: "too much memory"}, 0},
		{"hugeList", Failure{Kind: Limit, Message: "too much memory"}, 0},
		{"talk", Failure{Kind: Limit, Message: "too many messages"}, 0},

		{"readsHost", Failure{Kind: Crashes, Message: "access to absolute path '/etc"}, 0},
		{"listsHost", Failure{Kind: Crashes, Message: "forbidden"}, 0},
		{"readsLink", Failure{Kind: Crashes, Message: "forbidden"}, 0},
		{"fetches", Failure{Kind: Crashes, Message: "forbidden in restricted mode", Transient: true}, 0},
		{"fetchesTarball", Failure{Kind: Crashes, Message: "forbidden in restricted mode", Transient: true}, 0},
		{"environment", Failure{Kind: Throws, Message: "HOME is '', PATH is ''"}, 1},
		{"imports", Failure{Kind: Crashes}, 0},
		{"forges", Failure{Kind: NotPackage, Message: "of type int"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, runner := newEvaluator(t, Options{})
			before := runner.Started()
			// A healthy name before and one after, in the order of evaluation: neither suffers.
			results, err := e.Evaluate(t.Context(), source, system, []string{"-dash", test.name, "ümlaut"})
			if err != nil {
				t.Fatal(err)
			}
			for _, healthy := range []string{"-dash", "ümlaut"} {
				if results[healthy].Package == nil {
					t.Errorf("%s: %+v", healthy, results[healthy].Failure)
				}
			}
			got := results[test.name].Failure
			if got == nil {
				t.Fatalf("package %+v", results[test.name].Package)
			}
			if got.Kind != test.want.Kind || !strings.Contains(got.Message, test.want.Message) || got.Message == "" {
				t.Errorf("%s: %q, want %s: %q", got.Kind, got.Message, test.want.Kind, test.want.Message)
			}
			if !slices.Equal(got.NearMisses, test.want.NearMisses) ||
				!slices.Equal(got.Candidates, test.want.Candidates) {
				t.Errorf(
					"near misses %q, candidates %q, want %q, %q", got.NearMisses, got.Candidates,
					test.want.NearMisses, test.want.Candidates,
				)
			}
			if strings.Contains(got.Message, source.Path) || strings.Contains(got.Message, "\x1b") {
				t.Errorf("unfit for clients: %q", got.Message)
			}
			permanent := test.want.Kind != Limit && !test.want.Transient
			if cacheable := results[test.name].Cacheable(); cacheable != permanent {
				t.Errorf("cacheable: %v", cacheable)
			}
			want := 1 + test.processes
			if test.want.Kind == Crashes || test.want.Kind == Limit {
				want = 2 // again, for the name after it
			}
			if n := runner.Started() - before; n != want {
				t.Errorf("%d processes, want %d", n, want)
			}
		})
	}
}

func TestCPULimit(t *testing.T) {
	e, _ := newEvaluator(t, Options{CPU: 2 * time.Second})
	results, err := e.Evaluate(t.Context(), testSet(t), system, []string{"hello", "several", "time"})
	if err != nil {
		t.Fatal(err)
	}
	if results["hello"].Package == nil || results["several"].Package == nil {
		t.Errorf("healthy names suffer: %+v", results)
	}
	got := results["time"]
	if got.Failure == nil || got.Failure.Kind != Limit || !strings.Contains(got.Failure.Message, "processor time") ||
		got.Cacheable() {
		t.Errorf("got %+v", got.Failure)
	}
	// What comes after is not tried: the budget is that of the call.
	results, err = e.Evaluate(t.Context(), testSet(t), system, []string{"time", "ümlaut"})
	if err != nil {
		t.Fatal(err)
	}
	if f := results["ümlaut"].Failure; f == nil || f.Kind != Limit {
		t.Errorf("got %+v", results["ümlaut"])
	}
	// What comes before, as the caller has it, is.
	results, err = e.Evaluate(t.Context(), testSet(t), system, []string{"ümlaut", "time"})
	if err != nil {
		t.Fatal(err)
	}
	if f := results["ümlaut"].Failure; f != nil && f.Kind == Limit {
		t.Errorf("got %+v", results["ümlaut"])
	}
}

func TestSources(t *testing.T) {
	const derivation = `{ hello = derivation { name = "hello-1"; builder = "/bin/sh"; inherit system; }; }`
	for _, test := range []struct {
		name, file, text string
		want             string // in the *SourceError; empty: hello is found
	}{
		{"attribute set", "default.nix", `let system = "x86_64-linux"; in ` + derivation, ""},
		{"function of the system", "default.nix", "{ system }: " + derivation, ""},
		{"function of anything", "default.nix", "{ ... }@args: let inherit (args) system; in " + derivation, ""},
		{"function without a pattern", "default.nix", "args: let inherit (args) system; in " + derivation, ""},
		{
			"as nixpkgs", "default.nix",
			"{ localSystem ? { inherit (args) system; }, system ? localSystem.system, crossSystem ? null, config ? abort \"config\", overlays ? abort \"overlays\", ... }@args: assert config == { } && overlays == [ ]; " + derivation,
			"",
		},
		{"single file", "odd name=1.nix", "{ system }: " + derivation, ""},
		{
			"functor", "default.nix",
			`let system = "x86_64-linux"; in ` + derivation + " // { __functor = self: x: x; }", "",
		},

		{"list", "default.nix", "[ ]", "it is a list, not an attribute set"},
		{"function of functions", "default.nix", "{ system }: x: x", "it is a function, not an attribute set"},
		{"throws", "default.nix", `{ system }: throw "no set"`, "no set"},
		{"aborts", "default.nix", `abort "no set"`, "no set"},
		{"syntax error", "default.nix", "{\n  a = ;\n}", "unexpected ';' (packages/default.nix:2:7)"},
		{"demands more", "default.nix", "{ system, secret }: { }", "without required argument 'secret'"},
		{
			"reads beside itself", "single.nix", "import ./other.nix",
			"'packages/other.nix' is forbidden in restricted mode",
		},
		{
			"reads around itself", "default.nix", "import ../other.nix",
			"'packages/../other.nix' is forbidden in restricted mode",
		},
		{"reads the host's channels", "default.nix", "import <nixpkgs> { }", "the package set needs <nixpkgs>"},
		{"endless", "default.nix", "let f = n: f (n + 1); in f 0", "stack overflow"},
		{"empty file", "default.nix", "", "unexpected end of file"},
		{"no default.nix", "other.nix", "{ }", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, _ := newEvaluator(t, Options{})
			source := writeSet(t, test.file, test.text)
			if test.name == "no default.nix" {
				source.Path, test.want = filepath.Dir(source.Path), "path 'packages/default.nix' does not exist"
			}
			results, err := e.Evaluate(t.Context(), source, system, []string{"hello"})
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if results["hello"].Package == nil {
					t.Errorf("%+v", results["hello"].Failure)
				}
				return
			}
			var sourceError *SourceError
			if !errors.As(err, &sourceError) || !strings.Contains(err.Error(), test.want) || sourceError.Limit {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), filepath.Dir(source.Path)) {
				t.Errorf("%q shows the host", err)
			}
		})
	}
}

func TestSourceBeyondLimits(t *testing.T) {
	e, _ := newEvaluator(t, Options{})
	_, err := e.Evaluate(
		t.Context(),
		writeSet(t, "default.nix", "{ a = builtins.length (builtins.genList (n: n) 2000000000); b = 1; }.a"),
		system, []string{"hello"},
	)
	var sourceError *SourceError
	if !errors.As(err, &sourceError) || !sourceError.Limit {
		t.Errorf("error %v, want a limit", err)
	}
}

func TestInfrastructureErrors(t *testing.T) {
	e, runner := newEvaluator(t, Options{})
	source := testSet(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	deadline, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for _, test := range []struct {
		name   string
		ctx    context.Context
		source Source
		names  []string
		want   error
	}{
		{"cancelled before", cancelled, source, []string{"hello"}, context.Canceled},
		{"cancelled meanwhile", deadline, source, []string{"time"}, context.DeadlineExceeded},
		{"no such set", t.Context(), Source{Path: source.Path + "/none"}, []string{"hello"}, fs.ErrNotExist},
		{
			"too many names", t.Context(), source,
			strings.Split(strings.Repeat("a ", 10)+manyNames(MaxNames+1), " "), nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := e.Evaluate(test.ctx, test.source, system, test.names)
			if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
	before := runner.Started()
	if results, err := e.Evaluate(t.Context(), source, system, nil); err != nil || len(results) != 0 ||
		runner.Started() != before {
		t.Errorf("no names: %v, %v, %d processes", results, err, runner.Started()-before)
	}
	if _, err := New(t.Context(), runner, Options{NixInstantiate: "/bin/true"}); err == nil {
		t.Error("took /bin/true for Nix")
	}
	if _, err := New(t.Context(), runner, Options{NixInstantiate: "/nonexistent/nix"}); err == nil {
		t.Error("found a Nix that is not there")
	}
	for _, dir := range []string{"/tmp?root=/", "/tmp/a b", "tmp", "/tmp/../tmp", "/"} {
		if _, err := New(t.Context(), runner, Options{ScratchDir: dir}); err == nil {
			t.Errorf("took %q for a scratch directory", dir)
		}
	}
	// Nix fails before it comes to the set: not the set's fault.
	wrong := evalStore{uri: "no such store", cache: "/nonexistent"}
	_, err := e.evaluate(t.Context(), source, system, []string{"hello"}, wrong, false)
	if err == nil || errors.As(err, new(*SourceError)) {
		t.Errorf("error %v, want another than a *SourceError", err)
	}
}

func manyNames(n int) string {
	var names []string
	for i := range n {
		names = append(names, "name"+strings.Repeat("x", i%100)+string(rune('a'+i/100)))
	}
	return strings.Join(names, " ")
}

// TestInstantiate adds derivations to an empty store and reads them back from there.
func TestInstantiate(t *testing.T) {
	target, scratch := openDir(t, "target"), openDir(t, "scratch")
	e, runner := newEvaluator(t, Options{Store: "local?root=" + target, ScratchDir: scratch})
	source := testSet(t)
	names := []string{"hello", "needy", "broken", "aborts", "none"}
	want, err := e.Evaluate(t.Context(), source, system, names)
	if err != nil {
		t.Fatal(err)
	}
	before := runner.Started()
	got, err := e.Instantiate(t.Context(), source, system, names)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("results differ from those of Evaluate:\n%+v\n%+v", got, want)
	}
	if n := runner.Started() - before; n != 4 { // two evaluations, one for the text of broken, one copy
		t.Errorf("%d processes, want 4", n)
	}
	entries, err := os.ReadDir(target + "/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	var stored []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			stored = append(stored, store.Path(store.Dir+"/"+entry.Name()).Name())
		}
	}
	slices.Sort(stored)
	all := []string{"dependency-1.drv", "files", "fixed", "hello-2.12.1.drv", "needy-1.drv", "text", "text"}
	if !slices.Equal(stored, all) {
		t.Errorf("the store has %q, want %q", stored, all)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) != 1 || left[0].Name() != lockName {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if results, err := e.Instantiate(t.Context(), source, system, []string{"none"}); err != nil ||
		results["none"].Failure == nil {
		t.Errorf("nothing to add: %v, %v", results, err)
	}
}

// TestInstantiateAtOnce adds the same derivations from several evaluations, and evaluators, at a
// time, as images do that have packages in common.
func TestInstantiateAtOnce(t *testing.T) {
	target, scratch := openDir(t, "target"), openDir(t, "scratch")
	source := testSet(t)
	var all sync.WaitGroup
	for range 2 {
		e, _ := newEvaluator(t, Options{Store: "local?root=" + target, ScratchDir: scratch})
		for range 6 {
			all.Go(func() {
				if _, err := e.Instantiate(t.Context(), source, system, []string{"hello", "needy"}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
}

// TestForgedDerivationsAreRefused shows why derivations may be copied from a store that a package
// set's evaluation has written to: Nix checks names against contents, and asks for signatures if it
// cannot.
func TestForgedDerivationsAreRefused(t *testing.T) {
	e, _ := newEvaluator(t, Options{})
	for _, test := range []struct {
		name     string
		old, new string // in the derivation's narinfo
		want     string
	}{
		{"as it is", "", "", ""},
		{"content under another's name", "CA: text:sha256:", "CA: text:sha256:0", "error"},
		{"name without a hash of the content", "CA: ", "Ignored: ", "lacks a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := e.scratch(false)
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			cache := "file://" + dir + "/store?compression=none"
			results, err := e.evaluate(
				t.Context(), testSet(t), system, []string{"hello"},
				evalStore{uri: cache, write: true, cache: dir}, false,
			)
			if err != nil {
				t.Fatal(err)
			}
			derivation := results["hello"].Package.Derivation
			narinfo := dir + "/store/" + derivation.Base()[:32] + ".narinfo"
			text, err := os.ReadFile(narinfo)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(
				narinfo, []byte(strings.Replace(string(text), test.old, test.new, 1)), 0o644,
			); err != nil {
				t.Fatal(err)
			}
			err = e.copy(
				t.Context(),
				copying{
					from:       cache,
					to:         "local?root=" + openDir(t, "target"),
					paths:      []store.Path{derivation},
					derivation: true,
				},
			)
			if test.want == "" && err != nil ||
				test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestNearMisses(t *testing.T) {
	for _, test := range []struct {
		name  string
		asked string
		path  []string
		attrs []string
		want  []string
	}{
		{
			"nearest first, three at most", "htop", nil, []string{"htaps", "htup", "hop", "htip"},
			[]string{"hop", "htip", "htup"},
		},
		{"equal distance by name", "git", nil, []string{"gut", "gat"}, []string{"gat", "gut"}},
		{"letters in another order", "gti", nil, []string{"gai", "gts", "git", "gitit"}, []string{"git", "gai", "gts"}},
		{"letters in another order at the beginning", "igt", nil, []string{"git", "igvm"}, []string{"git"}},
		{
			"letters in another order in a longer name", "htpo", nil, []string{"http", "htop", "httpx"},
			[]string{"htop", "httpx"},
		},
		{"the beginning", "nodejs", nil, []string{"nodejs_18", "nodejs-slim"}, []string{"nodejs-slim", "nodejs_18"}},
		{
			"the beginning before what is near", "node", nil,
			[]string{"nose", "notes", "nodejs", "nodejs_20", "nodejs_22"},
			[]string{"nodejs", "nodejs_20", "nose"},
		},
		{
			"the beginning of most", "postgre", nil,
			[]string{"postgis", "postgrest", "postgrey", "postgresqlPackages", "postgresql", "postgresql_17"},
			[]string{"postgresql", "postgresql_17", "postgresqlpackages"},
		},
		{
			"one mistake beside many beginnings", "nod", nil,
			[]string{"nodejs", "nodejs_20", "nodejs_22", "nodejs_24", "non"},
			[]string{"nodejs", "nodejs_20", "non"},
		},
		{"the beginning of it", "python3-full", nil, []string{"python3"}, []string{"python3"}},
		{"letters of another case", "hlimt", []string{"p"}, []string{"HLint"}, []string{"p.hlint"}},
		{"an underscore before it", "1passwrd-cli", nil, []string{"_1password-cli"}, []string{"1password-cli"}},
		{
			"a part in the middle", "python3packges.requests", nil, []string{"python3Packages", "python3"},
			[]string{"python3packages.requests", "python3.requests"},
		},
		{"what nobody can ask for", "helo", nil, []string{"-helo", "hel√", "helo_", "hello"}, []string{"hello"}},
		{"nothing near", "firefox", nil, []string{"fish", "flac"}, nil},
		{"nothing", "x", nil, nil, nil},
		{"no name", ".", nil, []string{"a"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := strings.Join(append(slices.Clone(test.path), test.asked), ".")
			if got := nearMisses(asked, test.path, test.attrs); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// FuzzRead makes sure that no output of a broken Nix breaks the reader, and that nothing without
// the nonce is taken for an answer.
func FuzzRead(f *testing.F) {
	f.Add(`@nix {"action":"msg","level":0,"msg":"trace: NONCE {\"begun\":true}"}` + "\nerror: stack overflow\n")
	f.Add(`@nix {"action":"msg","level":0,"msg":"error","raw_msg":"no","file":"/p/a.nix","line":1}`)
	f.Add("@nix {\n@nix \nGC Warning: Out of Memory! Heap size: 32 MiB. Returning NULL!\n@nix")
	f.Fuzz(func(t *testing.T, stderr string) {
		s := &session{hostPaths: hidePaths(Source{Path: "/p"}, "/p", false, "/nonexistent")}
		end, err := s.read([]byte(stderr), "NONCE")
		if err != nil {
			return
		}
		for _, r := range end.reports {
			if result := r.result(); (result.Package == nil) == (result.Failure == nil) {
				t.Errorf("%+v is no result", result)
			}
		}
		if (end.begun || end.set != "" || end.reports != nil) && !strings.Contains(stderr, "NONCE") &&
			!strings.Contains(stderr, `\u`) {
			t.Errorf("took %q for an answer", stderr)
		}
	})
}
