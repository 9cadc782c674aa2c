//go:build nixpkgs

package eval

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

// TestNixpkgs asks a real nixpkgs, in the directory $NIXPKGS, for names of every kind, and prints
// what each gives. It is for nixpkgs of about the release 26.05; a newer one may have renamed or
// mended what is named here.
//
//	NIXPKGS=/srv/nixpkgs go test ./nixbuilder/eval -tags nixpkgs -run TestNixpkgs -v
func TestNixpkgs(t *testing.T) {
	set := os.Getenv("NIXPKGS")
	if set == "" {
		t.Fatal("NIXPKGS is not set: it is the directory of a nixpkgs")
	}
	e, _ := newEvaluator(t, Options{CPU: 30 * time.Second, Memory: 2 << 30})
	source := Source{Path: set}

	type row struct {
		name string
		kind Kind   // empty: a package
		want string // the attribute path with the first output to install; of what is not found, the first near miss; of failures, a part of the message
	}
	table := []row{
		// As they are written.
		{"hello", "", "hello.out"},
		{"git", "", "git.out"},
		{"openssl", "", "openssl.bin"},
		{"coreutils-full", "", "coreutils-full.out"},
		{"python3packages.requests", "", "python3Packages.requests.out"},
		{"perlpackages.json", "", "perlPackages.JSON.out"},
		{"imagemagick", "", "imagemagick.out"},
		{"nodejs_22", "", "nodejs_22.out"},
		// Digits and underscores.
		{"7zz", "", "_7zz.out"},
		{"1password", Throws, "renamed to/replaced by '1password-cli'"},
		{"9pfs", Throws, "'9pfs' was removed"},
		{"2048-cli", Throws, "Consider using '2048-in-terminal' instead"},
		// Sets within sets, and other platforms.
		{"pkgs.pkgs.git", "", "pkgs.pkgs.git.out"},
		{"pkgsstatic.hello", "", "pkgsStatic.hello.out"},
		{"pkgsmusl.busybox", "", "pkgsMusl.busybox.out"},
		{"pkgscross.aarch64-multiplatform.hello", "", "pkgsCross.aarch64-multiplatform.hello.out"},
		{"linuxpackages.kernel", "", "linuxPackages.kernel.out"},
		// Outputs.
		{"glibc.bin", "", "glibc.bin"},
		{"openssl.dev", "", "openssl.dev"},
		{"openssl.out", "", "openssl.out"},
		{"hello.out", "", "hello.out"},
		{"python3packages.requests.dist", "", "python3Packages.requests.dist"},
		{"stdenv.cc.cc.lib", "", "stdenv.cc.cc.lib"},
		{"stdenv.cc.out", "", "stdenv.cc.out"},
		{"stdenv", "", "stdenv.out"},
		{"openssl.lib", NotFound, ""},
		{"openssl.dve", NotFound, "openssl.dev"},
		// What is no package.
		{"stdenv.cc", NotPackage, "stdenv has the output out"},
		{"hello.src", NotPackage, "hello.src is a part of the package hello, not a package: hello has the output out"},
		{"hello.src.out", NotPackage, "hello has the output out"},
		{"hello.stdenv", NotPackage, "hello has the output out"},
		{"hello.meta", NotPackage, "hello has the output out"},
		{"lib", NotPackage, "of type attribute set"},
		{"python3packages", NotPackage, "of type attribute set"},
		{"fetchurl", NotPackage, "of type function"},
		{"nixos", NotPackage, "of type function"},
		// Gone, or refused.
		{"nodepackages", Throws, "nodePackages has been removed"},
		{"nodepackages.npm", Throws, "nodePackages has been removed"},
		{"pythonpackages.requests", Throws, "use `python3packages` instead"},
		{"python2", Throws, "python2 has been removed"},
		{"gcc12", Throws, "gcc12 has been removed"},
		{
			"terraform",
			Unfree,
			"has an unfree license (‘bsl11’) (the operator of this registry can allow it: packages.config: {allowUnfree: true})",
		},
		{"vscode", Unfree, "{allowUnfree: true})"},
		{"steam", Unfree, "{allowUnfree: true})"},
		{"mongodb", Unfree, "{allowUnfree: true})"},
		{"google-chrome", Unfree, "{allowUnfree: true})"},
		{"openssl_1_1", Insecure, `{permittedInsecurePackages: ["openssl-1.1.1w"]})`},
		{
			"cider",
			Broken,
			"broken: This package is broken. (the operator of this registry can allow it: packages.config: {allowBroken: true})",
		},
		// Typos.
		{"gti", NotFound, "git"},
		{"igt", NotFound, "git"},
		{"htpo", NotFound, "htop"},
		{"thop", NotFound, "htop"},
		{"bsah", NotFound, "bash"},
		{"ngnix", NotFound, "nginx"},
		{"curll", NotFound, "curl"},
		{"rediss", NotFound, "redis"},
		{"imagemgick", NotFound, "imagemagick"},
		{"pyhton3", NotFound, "python3"},
		{"1passwrd", NotFound, "1password"},
		{"perlpackages.jsn", NotFound, "perlpackages.json"},
		{"python3packages.reqeusts", NotFound, "python3packages.requests"},
		{"python3packges.requests", NotFound, "python3packages.requests"},
		{"postgre", NotFound, "postgresql"},
		{"nod", NotFound, "nodejs"},
		{"node", NotFound, "nodejs"},
		{"openss", NotFound, "openssl"},
		{"docker-compos", NotFound, "docker-compose"},
		{"nodejs_18", NotFound, "nodejs_20"},
		{"zzzzzzzz", NotFound, ""},
	}

	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer out.Flush()
	for _, row := range table {
		began := time.Now()
		results, err := e.Evaluate(t.Context(), source, system, []string{row.name})
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began).Round(10 * time.Millisecond)
		got, kind, said := "", Kind(""), ""
		if failure := results[row.name].Failure; failure != nil {
			kind, said = failure.Kind, failure.Message
			if got = failure.Message; failure.Kind == NotFound {
				got = strings.Join(failure.NearMisses, ", ")
				said += "; near: " + got
			}
			if n := utf8.RuneCountInString(failure.Message); n > maxRefusal {
				t.Errorf("%s: a message of %d characters: %s", row.name, n, failure.Message)
			}
			if strings.Contains(failure.Message, set) || strings.Contains(failure.Message, "/nix/store") ||
				strings.Contains(failure.Message, "\x1b") {
				t.Errorf("%s: %q is not fit for clients", row.name, failure.Message)
			}
		} else {
			p := results[row.name].Package
			got = strings.Join(slices.Concat(p.Attr, p.OutputsToInstall[:1]), ".")
			said = fmt.Sprintf("%s, a package for %s", got, p.System)
		}
		fmt.Fprintf(out, "%s\t%v\t%s\t%s\n", row.name, took, kind, strings.ReplaceAll(said, "\n", " "))
		fine := kind == row.kind
		switch row.kind {
		case NotFound:
			first, _, _ := strings.Cut(got, ", ")
			fine = fine && first == row.want
		case "":
			fine = fine && got == row.want
		default:
			fine = fine && strings.Contains(got, row.want)
		}
		if !fine {
			t.Errorf("%s: %s %q, want %s %q", row.name, kind, got, row.kind, row.want)
		}
	}
}
