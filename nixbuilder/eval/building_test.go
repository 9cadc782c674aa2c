package eval

import (
	"errors"
	"strings"
	"testing"
)

// generated is a derivation whose output would have to be read to go on.
const generated = `(derivation { name = "generated.nix"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo '{ name = \"generated\"; }' > $out" ]; })`

// TestNeeds has sets that need what an evaluation does not have. They say so in plain words, with every Nix, and what does not need it works.
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
		{"import", map[string]string{"default.nix": `{ ... }: { p = ` + own(`(import `+generated+`).name`, "") + `; other = ` + own(`"other"`, "") + `; }`}, "p" + off, ""},
		{"reading a file", map[string]string{"default.nix": `{ ... }: { p = ` + own(`builtins.readFile `+generated, "") + `; other = ` + own(`"other"`, "") + `; }`}, "p" + off, ""},
		{"the set itself", map[string]string{"default.nix": `{ ... }: import ` + generated}, "the package set" + off, "set"},
		{"a flake", map[string]string{"flake.nix": `{ outputs = { self }: { packages.x86_64-linux = { p = ` + own(`(import `+generated+`).name`, "") + `; other = ` + own(`"other"`, "") + `; }; }; }`}, "p" + off, ""},
		{"content-addressed", map[string]string{"default.nix": `{ ... }: { other = ` + own(`"other"`, "") + `; p = ` + own(`"p"`, `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`) + `; }`},
			"p is made of a content-addressed derivation, which this registry does not build", ""},
		{"impure", map[string]string{"default.nix": `{ ... }: { other = ` + own(`"other"`, "") + `; p = ` + own(`"p"`, `__impure = true;`) + `; }`},
			"p is made of an impure derivation, which this registry does not build", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch")})
			results, err := e.Evaluate(t.Context(), Source{Path: flakeOf(t, test.files)}, system, []string{"other", "p"})
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
