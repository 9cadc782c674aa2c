package eval

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNixPath evaluates sets that look up another one.
func TestNixPath(t *testing.T) {
	other := writeSet(t, "default.nix", `{ system ? builtins.currentSystem, config, overlays ? [ ] }: {
		hello = derivation { name = "hello-1"; inherit system; builder = "/bin/sh"; args = [ ./default.nix ]; };
		lib.twice = text: text + text;
		fails = throw "in ${toString ./default.nix}";
	}`)
	file := filepath.Join(openDir(t, "single"), "one.nix")
	if err := os.WriteFile(file, []byte(`"one"`), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(openDir(t, "link"), "link")
	if err := os.Symlink(other.Path, link); err != nil {
		t.Fatal(err)
	}
	there := map[string]string{"nixpkgs": link, "one": file}
	const noWay = "the package set needs <nixpkgs>: packages.nixpath of this registry can say what it is"
	own := func(name string) string {
		return `derivation { name = "` + name + `"; system = "x86_64-linux"; builder = "/bin/sh"; }`
	}
	for _, test := range []struct {
		name, set string
		nixPath   map[string]string
		pname     string // of the package p
		want      string // in the error of the set, or of p
	}{
		{"a default", `{ pkgs ? import <nixpkgs> { config = { }; } }: { p = pkgs.hello; }`, there, "hello", ""},
		{"used later", `{ pkgs ? import <nixpkgs> { config = { }; } }: { p = pkgs.hello; }`, nil, "", noWay},
		{"asked for", `{ pkgs }: { p = pkgs.hello; }`, there, "hello", ""},
		{"asked for in vain", `{ pkgs }: { p = pkgs.hello; }`, nil, "", noWay},
		{"asked for and not used", `{ pkgs }: { p = ` + own("p") + `; }`, nil, "p", ""},
		{
			"its functions alone",
			`{ lib, pkgs }: { p = derivation { name = lib.twice "p"; system = "x86_64-linux"; builder = pkgs.hello; }; }`,
			there, "pp", "",
		},
		{"something else asked for", `{ nosuch }: { }`, there, "", "without required argument 'nosuch'"},
		{
			"a part of it", `{ ... }: { p = (import <nixpkgs/default.nix> { config = { }; }).hello; }`, there,
			"hello", "",
		},
		{
			"a file",
			`{ ... }: { p = derivation { name = import <one>; system = "x86_64-linux"; builder = "/bin/sh"; }; }`,
			there, "one", "",
		},
		{
			"the wanted system",
			`{ ... }: { p = derivation { name = builtins.currentSystem; system = builtins.currentSystem; builder = "/bin/sh"; }; }`,
			nil, "x86_64-linux", "",
		},
		{
			"a part that it does not have", `{ ... }: { p = import <nixpkgs/nosuch.nix>; }`, there, "",
			"<nixpkgs/nosuch.nix>, which is not in what packages.nixpath of this registry has",
		},
		{
			"another name", `{ ... }: { p = import <elsewhere/x>; }`, there, "",
			"the package set needs <elsewhere>: packages.nixpath",
		},
		{
			"where it is", `{ ... }: { p = (import <nixpkgs> { config = { }; }).fails; }`, there, "",
			"in <nixpkgs>/default.nix",
		},
		{"beside it", `{ ... }: { p = import (<nixpkgs> + "/../x.nix"); }`, there, "", "forbidden in restricted mode"},
		{"a flake", `flake`, there, "hello", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := writeSet(t, "default.nix", test.set)
			if test.set == "flake" {
				source = Source{
					Path: flakeOf(
						t,
						map[string]string{
							"flake.nix": `{ outputs = { self }: { packages.x86_64-linux.p = (import <nixpkgs> { config = { }; }).hello; }; }`,
						},
					),
				}
			}
			source.NixPath = test.nixPath
			e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch")})
			results, err := e.Evaluate(t.Context(), source, system, []string{"p"})
			message := ""
			switch refused := (*SourceError)(nil); {
			case errors.As(err, &refused):
				message = refused.Message
			case err != nil:
				t.Fatal(err)
			case results["p"].Failure != nil:
				message = results["p"].Failure.Message
			case results["p"].Package.Pname != test.pname:
				t.Errorf("%+v", results["p"].Package)
			}
			if (message == "") != (test.want == "") || !strings.Contains(message, test.want) ||
				strings.Contains(message, "NIX_PATH") {
				t.Errorf("error %q, want %q", message, test.want)
			}
			if strings.Contains(message, other.Path) {
				t.Errorf("%q shows the host", message)
			}
		})
	}
}
