package eval

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTexts makes sure that faults of packages are told in the same words whatever the version of
// Nix is.
func TestTexts(t *testing.T) {
	source := writeSet(t, "default.nix", `{ system, ... }:
let package = name: derivation { inherit name system; builder = "/bin/sh"; }; in rec {
equal = assert 1 == 2; package "x";
equalLists = assert [ 1 ] == [ 1 2 ]; package "x";
equalSets = assert { a = 1; } == { b = 1; }; package "x";
nested = let f = x: assert x == "b"; package x; in assert (f "a").name == "a"; package "x";
false = assert 1 > 2; package "x";
thrown = assert throw "is not equal to" == 1; package "x";
noSuchFile = import ./none.nix;
noFunction = 1 2;
argument = ({ a }: a) { };
unexpected = ({ a }: a) { a = 1; b = 2; };
named = let f = { a }: a; in f { };
undefined = import ./undefined.nix;
recursion = let x = x; in x;
attribute = { }.foo;
types = 1 + "x";
badName = (package "bad name").drvPath;
aborts = abort "enough";
}
`)
	e, _ := newEvaluator(t, Options{})
	for name, want := range map[string]string{
		"equal":      "assertion '(1 == 2)' failed (packages/default.nix:3:9)",
		"equalLists": "assertion '([ (1) ] == [ (1) (2) ])' failed (packages/default.nix:4:14)",
		"equalSets":  "assertion '({ a = 1; } == { b = 1; })' failed (packages/default.nix:5:13)",
		"nested":     `assertion '(x == "b")' failed (packages/default.nix:6:21)`,
		"false":      "assertion '(__lessThan 2 1)' failed (packages/default.nix:7:9)",
		"thrown":     "is not equal to",
		"noSuchFile": "path 'packages/none.nix' does not exist",
		"noFunction": "attempt to call something which is not a function but an integer (packages/default.nix:10:14)",
		"argument":   "function 'anonymous lambda' called without required argument 'a' (packages/default.nix:11:13)",
		"unexpected": "function 'anonymous lambda' called with unexpected argument 'b' (packages/default.nix:12:15)",
		"named":      "function 'f' called without required argument 'a' (packages/default.nix:13:17)",
		"undefined":  "path 'packages/undefined.nix' does not exist",
		"recursion":  "infinite recursion encountered (packages/default.nix:15:21)",
		"attribute":  "attribute 'foo' missing (packages/default.nix:16:13)",
		"types":      "cannot add a string to an integer (packages/default.nix:17:13)",
		"badName":    "invalid derivation name: name 'bad name' contains illegal character ' '",
		"aborts":     "evaluation aborted with the following error message: 'enough'",
	} {
		results, err := e.Evaluate(t.Context(), source, system, []string{name})
		if err != nil {
			t.Fatal(err)
		}
		if failure := results[name].Failure; failure == nil || failure.Message != want {
			t.Errorf("%s: %+v, want %q", name, failure, want)
		}
	}
}

// What nixpkgs says, at the time of its release 26.05 and before, word for word.
const (
	unfreeText = `Refusing to evaluate package 'terraform-1.15.7' in packages/pkgs/applications/networking/cluster/terraform/default.nix:85 because it has an unfree license (‘bsl11’)
a) To temporarily allow unfree packages, you can use an environment variable
   for a single invocation of the nix tools.

     $ export NIXPKGS_ALLOW_UNFREE=1

b) For ` + "`nixos-rebuild`" + ` you can set
  { nixpkgs.config.allowUnfree = true; }
in configuration.nix to override this.`
	oldUnfreeText = `Package ‘vmware-1’ in packages/vmware.nix:3 has an unfree license (‘unfree’), refusing to evaluate.

a) To temporarily allow unfree packages, you can use an environment variable
   for a single invocation of the nix tools.

     $ export NIXPKGS_ALLOW_UNFREE=1

b) For ` + "`nixos-rebuild`" + ` you can set
  { nixpkgs.config.allowUnfree = true; }
in configuration.nix to override this.`
	insecureText = `Refusing to evaluate package 'openssl-1.1.1w' in packages/pkgs/development/libraries/openssl/default.nix:395 because it is marked as insecure

Known issues:
 - CVE-2023-0001
 - OpenSSL 1.1 is reaching its end of life on 2023/09/11 and cannot be supported through the NixOS 23.11 release cycle. https://www.openssl.org/blog/blog/2023/03/28/1.1.1-EOL/

You can install it anyway by allowing this package, using the
following methods:

     {
       nixpkgs.config.permittedInsecurePackages = [
         "openssl-1.1.1w"
       ];
     }`
	brokenText = `Refusing to evaluate package 'cider-1.6.3' in packages/pkgs/by-name/ci/cider/package.nix:34 because it has problems:
- broken: This package is broken.

See also https://nixos.org/manual/nixpkgs/unstable#sec-problems
To allow evaluation regardless, use:
- Nixpkgs import: import nixpkgs { config = <below code>; }
- NixOS: nixpkgs.config = <below code>;

  {
    problems.handlers = {
      cider.broken = "warn"; # or "ignore"
    };
  }`
	unsupportedText = `Refusing to evaluate package 'iina-1.4' in packages/pkgs/by-name/ii/iina/package.nix:52 because it is not available on the requested hostPlatform:
  hostPlatform.system = "x86_64-linux"
  package.meta.platforms = [
    "x86_64-darwin"
    "aarch64-darwin"
  ]
  package.meta.badPlatforms = [ ]

a) To temporarily allow packages that are unsupported for this system, you can use an environment variable
   for a single invocation of the nix tools.`
)

func TestShortRefusal(t *testing.T) {
	for _, test := range []struct {
		name, message string
		kind          Kind
		takesConfig   bool
		want          string
	}{
		{
			"unfree", unfreeText, Unfree, true,
			"Refusing to evaluate package 'terraform-1.15.7' in packages/pkgs/applications/networking/cluster/terraform/default.nix:85 because it has an unfree license (‘bsl11’)" +
				" (the operator of this registry can allow it: packages.config: {allowUnfree: true})",
		},
		{
			"unfree, in a set that calls nixpkgs", oldUnfreeText, Unfree, false,
			"Package ‘vmware-1’ in packages/vmware.nix:3 has an unfree license (‘unfree’), refusing to evaluate." +
				" (the package set can allow it, where it calls nixpkgs: config.allowUnfree = true)",
		},
		{
			"unfree, in a set that has nothing of nixpkgs", "Package ‘a-1’ has an unfree license", Unfree,
			true, "Package ‘a-1’ has an unfree license",
		},
		{
			"insecure", insecureText, Insecure, true,
			"Refusing to evaluate package 'openssl-1.1.1w' because it is marked as insecure; known issues: CVE-2023-0001; OpenSSL 1.1 is reaching its end of life on 2023/09/11 and cannot be supported t…" +
				` (the operator of this registry can allow it: packages.config: {permittedInsecurePackages: ["openssl-1.1.1w"]})`,
		},
		{
			"insecure, in a set that calls nixpkgs", strings.Replace(insecureText, " - OpenSSL", "\n - OpenSSL", 1),
			Insecure, false,
			"Refusing to evaluate package 'openssl-1.1.1w' in packages/pkgs/development/libraries/openssl/default.nix:395 because it is marked as insecure; known issues: CVE-2023-0001" +
				` (the package set can allow it, where it calls nixpkgs: config.permittedInsecurePackages = [ "openssl-1.1.1w" ])`,
		},
		{
			"broken", brokenText, Broken, true,
			"Refusing to evaluate package 'cider-1.6.3' in packages/pkgs/by-name/ci/cider/package.nix:34 because it has problems: broken: This package is broken." +
				" (the operator of this registry can allow it: packages.config: {allowBroken: true})",
		},
		{
			"for another platform", unsupportedText, Unsupported, true,
			"Refusing to evaluate package 'iina-1.4' in packages/pkgs/by-name/ii/iina/package.nix:52 because it is not available on the requested hostPlatform:" +
				` hostPlatform.system = "x86_64-linux" package.meta.platforms = [ "x86_64-darwin" "aarch64-darwin" ] package.meta.badPlatforms = [ ]`,
		},
		{
			"a name that leaves no room",
			strings.ReplaceAll(insecureText, "1.1.1w", strings.Repeat("ü", 400)), Insecure, true,
			"Refusing to evaluate package 'openssl-" + strings.Repeat("ü", 299-38) + "…",
		},
		{"nothing", "", Broken, true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if kind := classify(test.message); test.message != "" && kind != test.kind {
				t.Errorf("it is %s, want %s", kind, test.kind)
			}
			got := shortRefusal(test.kind, test.message, test.takesConfig)
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if n := utf8.RuneCountInString(got); n > 300 {
				t.Errorf("%d characters", n)
			}
		})
	}
}

func TestAsked(t *testing.T) {
	for message, want := range map[string]string{
		"'_1password' has been renamed to/replaced by '_1password-cli'":                  "'1password' has been renamed to/replaced by '1password-cli'",
		"_2048-cli was removed. Consider using '_2048-in-terminal' instead":              "2048-cli was removed. Consider using '2048-in-terminal' instead",
		"`pythonPackages` previously pointed to Python 2; use `python3Packages` instead": "`pythonPackages` previously pointed to Python 2; use `python3packages` instead",
		"'bctoolbox' has been moved to 'linphonePackages.bctoolbox'":                     "'bctoolbox' has been moved to 'linphonepackages.bctoolbox'",
		"'vdirsyncerStable' has been renamed to ‘vdirsyncer’":                            "'vdirsyncerStable' has been renamed to ‘vdirsyncer’",
		"apacheKafka_2_8 and linux_6_1 are gone, see a/_1 and x._1":                      "apacheKafka_2_8 and linux_6_1 are gone, see a/_1 and x._1",
		"Set 'allowUnfree' in HOME, or use '__internal'":                                 "Set 'allowUnfree' in HOME, or use '__internal'",
	} {
		if got := asked(message); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
