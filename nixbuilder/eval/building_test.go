package eval

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
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

// generated is a derivation whose output would have to be read to go on.
const generated = `(derivation { name = "generated.nix"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo '{ name = \"generated\"; }' > $out" ]; })`

// TestNeeds evaluates sets that need something that evaluations do not have. They say so in plain
// words with every Nix, and packages that do not need it work.
func TestNeeds(t *testing.T) {
	own := func(name, more string) string {
		return `derivation { name = ` + name + `; system = "x86_64-linux"; builder = "/bin/sh"; ` + more + ` }`
	}
	const off = " needs import from derivation, which is off: nix.importfromderivation of this registry can switch it on"
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string // of the package p, or of the set
		other string // why there is no package other; empty: there is
	}{
		{
			"import",
			map[string]string{"default.nix": `{ ... }: { p = ` + own(`(import `+generated+`).name`, "") + `; other = ` + own(`"other"`, "") + `; }`},
			"p" + off, "",
		},
		{
			"reading a file",
			map[string]string{"default.nix": `{ ... }: { p = ` + own(`builtins.readFile `+generated, "") + `; other = ` + own(`"other"`, "") + `; }`},
			"p" + off, "",
		},
		{"the set itself", map[string]string{"default.nix": `{ ... }: import ` + generated}, "it" + off, "set"},
		{
			"a flake",
			map[string]string{"flake.nix": `{ outputs = { self }: { packages.x86_64-linux = { p = ` + own(`(import `+generated+`).name`, "") + `; other = ` + own(`"other"`, "") + `; }; }; }`},
			"p" + off, "",
		},
		{"content-addressed", map[string]string{"default.nix": `{ ... }: { other = ` + own(`"other"`, "") + `; p = ` + own(`"p"`, `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`) + `; }`},
			"p is made of a content-addressed derivation, which this registry does not build", ""},
		{"impure", map[string]string{"default.nix": `{ ... }: { other = ` + own(`"other"`, "") + `; p = ` + own(`"p"`, `__impure = true;`) + `; }`},
			"p is made of an impure derivation, which this registry does not build", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch")})
			results, err := e.Evaluate(
				t.Context(), Source{Path: flakeOf(t, test.files)}, system, []string{"other", "p"},
			)
			message := ""
			switch refused := (*SourceError)(nil); {
			case errors.As(err, &refused):
				message = refused.Message
			case err != nil:
				t.Fatal(err)
			default:
				if f := results["p"].Failure; f != nil {
					message = f.Message
				}
				if results["other"].Package == nil {
					t.Errorf("other is %+v", results["other"].Failure)
				}
			}
			if message != test.want || (err != nil) != (test.other != "") {
				t.Errorf("error %q, want %q", message, strings.TrimSpace(test.want))
			}
		})
	}
}

// realising builds in a store of the test's own, and counts.
func realising(t *testing.T, target string) (realise Realise, built map[string]int) {
	t.Helper()
	busybox := needs.Tool(t, "busybox")
	built = make(map[string]int)
	var mu sync.Mutex
	return func(
		ctx context.Context, derivation store.Path, write func(context.Context) error,
	) ([]store.Path, string, func(), error) {
		mu.Lock()
		defer mu.Unlock()
		if err := write(ctx); err != nil {
			return nil, "", nil, err
		}
		if derivation.Name() == "bad.drv" { // though it would build
			return nil, "it fails", nil, nil
		}
		built[derivation.Name()]++
		output, err := exec.CommandContext(ctx, "nix-store", "--store", target,
			"--option", "substituters", "", "--option", "build-users-group", "",
			"--option", "sandbox-paths", "/bin/sh="+busybox, "--realise", string(derivation)).Output()
		if err != nil {
			return nil, "", nil, err
		}
		lines := strings.Fields(string(output))
		path, err := store.ParsePath(lines[len(lines)-1])
		return []store.Path{path}, "", func() {}, err
	}, built
}

// TestReading evaluates sets that read what is built.
func TestReading(t *testing.T) {
	archive, requests := remoteSet(t)
	own := func(name, more string) string {
		return `derivation { name = ` + name + `; system = "x86_64-linux"; builder = "/bin/sh"; ` + more + ` }`
	}
	echo := func(name, text string) string {
		return `(derivation { name = "` + name + `"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo '` + text + `' > $out" ]; })`
	}
	list := func(more string) string {
		return `let one = ` + echo(
			"one", "{ a = 1; }",
		) + `; two = ` + echo(
			"two", "${toString (import one).a}",
		) + `; in {
			plain = ` + own(
			`"plain"`,
			"",
		) + `; p = ` + own(
			`"p-${toString (import one).a}"`, `args = [ ./default.nix ];`,
		) + `;
			deep = ` + own(
			`"deep-${builtins.substring 0 1 (builtins.readFile two)}"`,
			"dep = two;",
		) + `;
			dir = ` + own(
			`builtins.concatStringsSep "-" (builtins.attrNames (import one))`,
			"",
		) + `;
			bad = import ` + `(derivation { name = "bad"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo { } > $out" ]; })` + `;
			lies = throw "path '/nix/store/00000000000000000000000000000000-x.drv' is not valid"; ` + more + ` }`
	}
	for _, test := range []struct {
		name  string
		files map[string]string
	}{
		{"a set", map[string]string{"default.nix": `{ ... }: ` + list("")}},
		{
			"a set that fetches",
			map[string]string{"default.nix": `{ system, ... }: ` + list(`inherit (import (fetchTarball "`+archive+`") { inherit system; }) inner;`)},
		},
		{
			"a flake",
			map[string]string{
				"flake.nix": `{ outputs = { self }: { packages.x86_64-linux = import ./set.nix; }; }`,
				"set.nix":   list(""),
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, ok := test.files["set.nix"]; ok {
				test.files["set.nix"] = strings.ReplaceAll(test.files["set.nix"], "./default.nix", "./set.nix")
			}
			target := "local?root=" + openDir(t, "target")
			realise, built := realising(t, target)
			options := Options{
				ScratchDir: openDir(
					t, "scratch",
				), AllowedURIs: []string{archive}, CPU: 20 * time.Second, Store: target, Realise: realise,
			}
			e, _ := newEvaluator(t, options)
			source := Source{Path: flakeOf(t, test.files), Shares: "the operator's"}
			names := []string{"plain", "p", "deep", "dir"}
			if strings.Contains(test.name, "fetches") {
				names = append(names, "inner")
			}
			for range 2 {
				results, err := e.Evaluate(t.Context(), source, system, append(names, "nothere"))
				if err != nil {
					t.Fatal(err)
				}
				for name, pname := range map[string]string{"plain": "plain", "p": "p", "deep": "deep", "dir": "a"} {
					if p := results[name].Package; p == nil || p.Pname != pname {
						t.Errorf("%s is %+v %+v", name, p, results[name].Failure)
					}
				}
			}
			if !maps.Equal(built, map[string]int{"one.drv": 1, "two.drv": 1}) {
				t.Errorf("what was built: %v", built)
			}
			results, err := e.Instantiate(t.Context(), source, system, names)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				p := results[name].Package
				if p == nil {
					t.Errorf("%s is %+v", name, results[name].Failure)
					continue
				}
				root := strings.TrimPrefix(target, "local?root=")
				if _, err := os.Stat(root + string(p.Derivation)); err != nil {
					t.Error(err)
				}
			}
			bad, err := e.Evaluate(t.Context(), source, system, []string{"bad", "lies", "plain"})
			if err != nil {
				t.Fatal(err)
			}
			if f := bad["lies"].Failure; f == nil ||
				f.Message != "lies needs import from derivation: it has no derivation x.drv" {
				t.Errorf("lies is %+v", f)
			}
			if f := bad["bad"].Failure; f == nil || f.Message != "bad needs import from derivation: it fails" ||
				bad["bad"].Cacheable() ||
				bad["plain"].Package == nil {
				t.Errorf("bad is %+v, plain %+v", f, bad["plain"])
			}
			// Another process finds what this one has left.
			e, _ = newEvaluator(t, options)
			if results, err := e.Evaluate(t.Context(), source, system, []string{"p"}); err != nil ||
				results["p"].Package == nil {
				t.Errorf("another process gets %+v, %v", results["p"].Failure, err)
			}
			// What was not asked for to be read is not built by the evaluation itself.
			if left, err := filepath.Glob(e.options.ScratchDir + "/fetched/*/root/nix/store/*-bad"); err != nil ||
				len(left) > 0 {
				t.Errorf("%q %v", left, err)
			}
		})
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}

	// There is an end.
	rounds := writeSet(
		t, "default.nix",
		`{ ... }: { p = builtins.foldl' (last: n: import (derivation { name = "r${toString n}"; inherit last; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo ${toString n} > $out" ]; })) 0 (builtins.genList (n: n) 25); }`,
	)
	target := "local?root=" + openDir(t, "target")
	realise, built := realising(t, target)
	e, _ := newEvaluator(
		t, Options{ScratchDir: openDir(t, "scratch"), CPU: 20 * time.Second, Store: target, Realise: realise},
	)
	results, err := e.Evaluate(t.Context(), rounds, system, []string{"p"})
	if err != nil {
		t.Fatal(err)
	}
	if f := results["p"].Failure; f == nil ||
		f.Message != "p needs import from derivation: more than 20 times in a row" ||
		len(built) != 20 {
		t.Errorf("%+v after %d builds", f, len(built))
	}
}

// TestFloating evaluates packages whose store paths only building tells, if Nix is configured to
// build such.
func TestFloating(t *testing.T) {
	const floats = `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`
	own := func(name, more string) string {
		return `derivation { name = "` + name + `"; system = "x86_64-linux"; builder = "/bin/sh"; ` + more + ` }`
	}
	list := `rec {
		plain = ` + own("plain", "") + `;
		floating = ` + own("floating", floats+`outputs = [ "out" "dev" ];`) + `;
		uses = ` + own("uses", "inherit floating;") + `;
		fixed = ` + own("fixed", `inherit floating; outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "0000000000000000000000000000000000000000000000000000";`) + `;
		impure = ` + own("impure", "__impure = true;") + `;
		lies = plain // { out.outPath = "/${plain.name}"; };
	}`
	conf := openDir(t, "conf")
	if err := os.WriteFile(
		filepath.Join(conf, "nix.conf"), []byte("experimental-features = ca-derivations\n"), 0o644,
	); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{ // the outputs that are not known, or the failure
		"plain": "", "floating": "dev out", "floating.dev": "dev out", "uses": "out", "fixed": "",
		"impure": "impure is made of an impure derivation, which this registry does not build",
		"lies":   "the output out of lies has no store path",
	}
	for name, files := range map[string]map[string]string{
		"a set":   {"default.nix": `{ ... }: ` + list},
		"a flake": {"flake.nix": `{ outputs = { self }: { packages.x86_64-linux = ` + list + `; }; }`},
	} {
		t.Run(name, func(t *testing.T) {
			target := openDir(t, "target")
			e, _ := newEvaluator(
				t,
				Options{
					ScratchDir: openDir(t, "scratch"),
					Store:      "local?root=" + target,
					HostEnv:    []string{"NIX_CONF_DIR=" + conf},
				},
			)
			if got := e.Features(); got != "ca-derivations" {
				t.Errorf("the features are %q", got)
			}
			source := Source{Path: flakeOf(t, files)}
			evaluated, err := e.Evaluate(t.Context(), source, system, slices.Collect(maps.Keys(want)))
			if err != nil {
				t.Fatal(err)
			}
			results, err := e.Instantiate(t.Context(), source, system, slices.Collect(maps.Keys(want)))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(results, evaluated) {
				t.Errorf("what is instantiated is %+v, what is evaluated %+v", results, evaluated)
			}
			for name, want := range want {
				p := results[name].Package
				if p == nil {
					if got := results[name].Failure.Message; got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
					continue
				}
				var unknown []string
				for output, path := range p.Outputs {
					if path == "" {
						unknown = append(unknown, output)
					}
				}
				slices.Sort(unknown)
				if got := strings.Join(unknown, " "); got != want || p.Floats() != (want != "") {
					t.Errorf("%s has the unknown outputs %q, want %q", name, got, want)
				}
				if _, err := os.Stat(target + string(p.Derivation)); err != nil {
					t.Errorf("%s is not in the store: %v", name, err)
				}
			}
		})
	}
	t.Run("switched off", func(t *testing.T) {
		e, _ := newEvaluator(t, Options{HostEnv: []string{"NIX_CONF_DIR=" + openDir(t, "conf")}})
		if got := e.Features(); got != "" {
			t.Errorf("the features are %q", got)
		}
	})
	t.Run("a configuration that Nix refuses", func(t *testing.T) {
		conf := openDir(t, "conf")
		if err := os.WriteFile(filepath.Join(conf, "nix.conf"), []byte("experimental-features\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		runner, _ := proc.New()
		if _, err := New(t.Context(), runner, Options{HostEnv: []string{"NIX_CONF_DIR=" + conf}}); err == nil ||
			!strings.Contains(err.Error(), "content-addressed") {
			t.Errorf("New() = %v", err)
		}
	})
}
