package nixpkgslike

import (
	"bufio"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed set
var skeleton embed.FS

// demoNames are the attributes that are the demo set's packages.
var demoNames = []string{
	"bashInteractive", "cacert", "coreutils", "curl", "file", "git", "hello", "htop", "iana-etc", "jq", "moreutils",
	"nano", "perl", "python3", "ripgrep", "tree",
}

const (
	coreLibraries = 120        // what all others are built with
	nestedFrom    = 1 << 20    // where the numbers of nested packages begin
	sourceText    = "source\n" // set/pkgs/stdenv/fetch.sh
)

// A Set names some of the attributes that were written, of each kind a few, by what pulling them
// gives.
type Set struct {
	// Plain, Capitals (their names have some), Overridden, Python and Haskell are packages. Those
	// of the last two have dotted names.
	Plain, Capitals, Overridden, Python, Haskell []string
	// Renamed are aliases for packages, Removed throw.
	Renamed, Removed []string
	// These refuse to be evaluated.
	Unfree, Broken, Insecure, Unsupported []string
}

// named is how many attributes of a kind a Set names, at most.
const named = 20

// Write makes a package set with that many packages and aliases at its top level, at least 1000, in
// the empty directory dir. So many packages, 500 to half of them, have a file and a directory of
// their own: nixpkgs has 45,000 files. The demo set is copied, by hard links where that is
// possible. Equal arguments give equal files.
func Write(dir, demo string, attributes, files int) (Set, error) {
	if attributes < 1000 || files < 500 || files > attributes/2 {
		return Set{}, fmt.Errorf(
			"a package set like nixpkgs with %d attributes in %d files: at least 1000, in 500 to half as many",
			attributes, files,
		)
	}
	w := &writer{dir: dir, made: make(map[string]bool)}
	w.copySkeleton()
	w.linkDemo(demo)

	aliased, filed, nested := attributes*12/100, files/8, files/8
	named := files - filed - nested
	for i := range named {
		w.byName(i)
	}
	w.allPackages(attributes, filed, attributes-aliased-named-filed)
	w.aliases(2*attributes, aliased)
	w.python(nested)
	w.haskell(attributes * 15 / 100)
	return w.set, w.err
}

// A writer remembers the first error, after which it does nothing.
type writer struct {
	dir  string
	made map[string]bool // directories
	set  Set
	err  error
}

func (w *writer) copySkeleton() {
	tree, err := fs.Sub(skeleton, "set")
	if err == nil {
		err = os.CopyFS(w.dir, tree)
	}
	w.err = errors.Join(w.err, err)
}

func (w *writer) linkDemo(demo string) {
	err := filepath.WalkDir(demo, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(demo, path)
		if err != nil {
			return err
		}
		target := filepath.Join(w.dir, "demo", rel)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if os.Link(path, target) == nil {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o755)
	})
	w.err = errors.Join(w.err, err)
}

func (w *writer) write(name, text string) {
	if w.err != nil {
		return
	}
	name = filepath.Join(w.dir, name)
	if parent := filepath.Dir(name); !w.made[parent] {
		w.err = os.MkdirAll(parent, 0o755)
		w.made[parent] = true
	}
	if w.err == nil {
		w.err = os.WriteFile(name, []byte(text), 0o644)
	}
}

// stream writes a file that is large.
func (w *writer) stream(name string, write func(b *bufio.Writer)) {
	if w.err != nil {
		return
	}
	name = filepath.Join(w.dir, name)
	if w.err = os.MkdirAll(filepath.Dir(name), 0o755); w.err != nil {
		return
	}
	file, err := os.Create(name)
	if err != nil {
		w.err = err
		return
	}
	b := bufio.NewWriter(file)
	write(b)
	w.err = errors.Join(b.Flush(), file.Close())
}

// byName writes a package of pkgs/by-name: first the real ones, then the libraries, then all
// others.
func (w *writer) byName(i int) {
	if i < len(demoNames) {
		if demoNames[i] != "python3" { // of all-packages.nix
			w.write(byNameFile(demoNames[i]), fmt.Sprintf("{ demo }:\n\ndemo.%s\n", demoNames[i]))
		}
		return
	}
	if i < len(demoNames)+coreLibraries {
		name := core(i - len(demoNames))
		w.write(byNameFile(name), expression(name, i))
		return
	}
	name := attribute(i)
	w.write(byNameFile(name), expression(name, i))
	switch restriction(i) {
	case unfree:
		w.set.Unfree = note(w.set.Unfree, name)
	case broken:
		w.set.Broken = note(w.set.Broken, name)
	case insecure:
		w.set.Insecure = note(w.set.Insecure, name)
	case unsupported:
		w.set.Unsupported = note(w.set.Unsupported, name)
	default:
		if name != strings.ToLower(name) {
			w.set.Capitals = note(w.set.Capitals, name)
		} else {
			w.set.Plain = note(w.set.Plain, name)
		}
	}
}

func byNameFile(name string) string {
	return filepath.Join("pkgs", "by-name", strings.ToLower(name[:2]), name, "package.nix")
}

// allPackages writes all-packages.nix with filed packages that have a file elsewhere, and varied
// ones that are others with other arguments.
func (w *writer) allPackages(first, filed, varied int) {
	w.stream("pkgs/top-level/all-packages.nix", func(b *bufio.Writer) {
		b.WriteString(`{ lib }:
self: super:
let
  inherit (self) callPackage;
in
{
  python3 = self.demo.python3 // {
    pkgs = callPackage ./python-packages.nix { };
  };
  python3Packages = lib.dontRecurseIntoAttrs self.python3.pkgs;
  haskellPackages = lib.recurseIntoAttrs (callPackage ../development/haskell-modules { });
`)
		for i := first; i < first+filed; i++ {
			name := attribute(i)
			file := filepath.Join("pkgs", "tools", categories[i%len(categories)], name, "default.nix")
			w.write(file, expression(name, i))
			fmt.Fprintf(b, "  %s = callPackage ../tools/%s/%s { };\n", name, categories[i%len(categories)], name)
		}
		for i := range varied {
			of := attribute(first + i%filed)
			name := fmt.Sprintf("%s_%d", of, 2+i/filed)
			fmt.Fprintf(b, "  %s = self.%s.override { withDocs = %t; };\n", name, of, i%2 == 0)
			if restriction(first+i%filed) == free {
				w.set.Overridden = note(w.set.Overridden, name)
			}
		}
		b.WriteString("}\n")
	})
}

var categories = []string{
	"admin", "archivers", "audio", "compression", "filesystems", "graphics", "misc", "networking", "security",
	"system", "text", "typesetting",
}

// fixedAliases are of kinds that nixpkgs has a few of.
const fixedAliases = `  _1password = throw "'_1password' has been renamed to/replaced by '_1password-cli'"; # Converted to throw 2025-10-27
  _1password-cli = self.hello;
  _7zz = self.tree;
  nodePackages = throw "nodePackages has been removed. Many packages are now available at the top level";
  pythonPackages = throw "` + "`pythonPackages` previously pointed to Python 2; use `python3Packages` instead" + `";
  pkgsStatic = self;
  pkgsCross.aarch64-multiplatform = self // { hello = self.hello // { system = "aarch64-linux"; stdenv.hostPlatform.system = "aarch64-linux"; }; };
`

// aliases writes those that throw, as nixpkgs does for packages that it had, and those that have
// another name now.
func (w *writer) aliases(first, count int) {
	w.stream("pkgs/top-level/aliases.nix", func(b *bufio.Writer) {
		b.WriteString("lib: self: super:\nimport ./aliases-functions.nix lib self super {\n")
		b.WriteString(fixedAliases)
		for i := first; i < first+count; i++ {
			name := attribute(i)
			if i%3 == 0 {
				to := demoNames[i/3%len(demoNames)]
				fmt.Fprintf(b, "  %s = self.%s; # Added 2024-05-%02d\n", name, to, 1+i%28)
				w.set.Renamed = note(w.set.Renamed, name)
			} else {
				fmt.Fprintf(
					b,
					"  %s = throw \"'%s' has been removed as it was unmaintained upstream\"; # Added 2024-05-%02d\n",
					name, name, 1+i%28,
				)
				w.set.Removed = note(w.set.Removed, name)
			}
		}
		b.WriteString("}\n")
	})
}

// python writes packages with a fixed point of their own, each in a file.
func (w *writer) python(count int) {
	w.stream("pkgs/top-level/python-packages.nix", func(b *bufio.Writer) {
		b.WriteString(`{
  lib,
  pkgs,
  newScope,
  stdenv,
}:
let
  extension =
    self: super:
    let
      inherit (self) callPackage;
    in
    {
`)
		for i := nestedFrom; i < nestedFrom+count; i++ {
			name := base(i)
			text := strings.Replace(expression(name, i), "  stdenv,\n", "  buildPythonPackage,\n", 1)
			text = strings.Replace(text, "stdenv.mkDerivation (finalAttrs: {", "buildPythonPackage (finalAttrs: {", 1)
			w.write(filepath.Join("pkgs", "development", "python-modules", name, "default.nix"), text)
			fmt.Fprintf(b, "      %s = callPackage ../development/python-modules/%s { };\n", name, name)
			if restriction(i) == free {
				w.set.Python = note(w.set.Python, "python3Packages."+name)
			}
		}
		b.WriteString(`    };
  base = self: {
    callPackage = newScope self;
    buildPythonPackage =
      f: stdenv.mkDerivation (finalAttrs: f finalAttrs // { name = "python3-${(f finalAttrs).pname}-${(f finalAttrs).version}"; });
  };
in
lib.fix (lib.extends (lib.composeExtensions extension (self: super: { })) base)
`)
	})
}

// haskell writes packages in one large file, named as on Hackage.
func (w *writer) haskell(count int) {
	w.write("pkgs/development/haskell-modules/default.nix", `{
  lib,
  pkgs,
  stdenv,
  fetchurl,
  newScope,
}:
lib.makeExtensible (
  self:
  import ./hackage-packages.nix {
    inherit lib pkgs;
    callPackage = newScope (
      self
      // {
        mkDerivation =
          {
            pname,
            version,
            sha256,
            libraryHaskellDepends ? [ ],
            description ? "",
            license,
          }:
          stdenv.mkDerivation {
            inherit pname version;
            src = fetchurl {
              url = "https://example.org/package/${pname}-${version}.tar.gz";
              inherit sha256;
            };
            buildInputs = libraryHaskellDepends;
            meta = {
              inherit description license;
              mainProgram = pname;
            };
          };
      }
    );
  } self
)
`)
	hackage := func(i int) string {
		name := base(nestedFrom*2 + i)
		if i%3 == 0 {
			name = strings.ToUpper(name[:1]) + name[1:]
		}
		return name
	}
	w.stream("pkgs/development/haskell-modules/hackage-packages.nix", func(b *bufio.Writer) {
		b.WriteString("{ lib, pkgs, callPackage }:\nself: {\n")
		for i := range count {
			name, depends := hackage(i), hackage(i*7%100)
			if i < 100 { // no cycles
				depends = core(i)
			}
			fmt.Fprintf(b, `  "%s" = callPackage (
    { mkDerivation, %s }:
    mkDerivation {
      pname = "%s";
      version = "%s";
      sha256 = "%s";
      libraryHaskellDepends = [ %[2]s ];
      description = "A library for %[1]s";
      license = lib.licenses.bsd3;
    }
  ) { };

`, name, depends, name, version(i), sourceHash())
			w.set.Haskell = note(w.set.Haskell, "haskellPackages."+name)
		}
		b.WriteString("}\n")
	})
}

func note(names []string, name string) []string {
	if len(names) == named {
		return names
	}
	return append(names, name)
}

// These are the restrictions that a package's meta can declare.
const (
	free = iota
	unfree
	broken
	insecure
	unsupported
)

// restriction chooses a restriction about as often as nixpkgs has it.
func restriction(i int) int {
	switch {
	case i < len(demoNames)+coreLibraries:
		return free
	case i%33 == 7:
		return unfree
	case i%41 == 5:
		return broken
	case i%211 == 3:
		return insecure
	case i%53 == 9:
		return unsupported
	}
	return free
}

var licenses = []string{"mit", "asl20", "bsd3", "gpl2Only", "gpl3Plus", "lgpl21Plus", "mpl20", "isc"}

// expression is the file of a package.
func expression(name string, i int) string {
	var depends []string
	for k := range 5 {
		of := min(i, coreLibraries) // libraries are made of those before them
		if i >= len(demoNames) && i < len(demoNames)+coreLibraries {
			of = i - len(demoNames)
		}
		if of > 0 {
			depends = append(depends, core((i*(k+3)+k*17)%of))
		}
	}
	slices.Sort(depends)
	depends = slices.Compact(depends)
	arguments := ""
	for _, d := range depends {
		arguments += "  " + d + ",\n"
	}
	license := licenses[i%len(licenses)]
	platforms := "lib.platforms.linux"
	extra := ""
	switch restriction(i) {
	case unfree:
		license = "unfree"
	case broken:
		extra = "    broken = true;\n"
	case insecure:
		extra = "    knownVulnerabilities = [ \"CVE-2024-0001\" ];\n"
	case unsupported:
		platforms = "lib.platforms.darwin"
	}
	return fmt.Sprintf(`{
  lib,
  stdenv,
  fetchurl,
%s  withDocs ? true,
}:

stdenv.mkDerivation (finalAttrs: {
  pname = "%s";
  version = "%s";

  src = fetchurl {
    url = "https://example.org/%[2]s/%[2]s-${finalAttrs.version}.tar.gz";
    sha256 = "%[4]s";
  };

  buildInputs = [
    %[5]s
  ];

  configureFlags = lib.optional withDocs "--with-docs";

  doCheck = true;

  passthru.tests.version = finalAttrs.finalPackage;

  meta = {
    description = "A program that shows %[2]s";
    homepage = "https://example.org/%[2]s";
    changelog = "https://example.org/%[2]s/releases/tag/${finalAttrs.version}";
    license = lib.licenses.%[6]s;
    mainProgram = "%[2]s";
    platforms = %[7]s;
%[8]s  };
})
`, arguments, name, version(i), sourceHash(), strings.Join(depends, "\n    "), license, platforms, extra)
}

func version(i int) string { return fmt.Sprintf("%d.%d.%d", i%7, i%31, i%11) }

func sourceHash() string { return fmt.Sprintf("%x", sha256.Sum256([]byte(sourceText))) }

// core names a library.
func core(n int) string { return fmt.Sprintf("lib%s", base(nestedFrom*3+n)) }

// attribute names the package of a number. Numbers below nestedFrom have different names, in lower
// case too.
func attribute(i int) string {
	name := base(i)
	switch {
	case i%20 == 3:
		name = name[:2] + strings.ToUpper(name[2:3]) + name[3:4] + strings.ToUpper(name[4:5]) + name[5:]
	case i%17 == 4:
		name += "-unwrapped"
	case i%11 == 5:
		name += "-cli"
	}
	return name
}

// base makes a pronounceable word of a number: two letters, which spread pkgs/by-name over its
// directories, and three syllables.
func base(i int) string {
	const consonants, vowels = "bcdfghjklmnprstvz", "aeiou"
	const words = 26 * 26 * 85 * 85 * 85
	n := int(uint64(i) * 2654435761 % words) // scattered: 2654435761 is a prime
	name := string([]byte{byte('a' + n%26), byte('a' + n/26%26)})
	n /= 26 * 26
	for range 3 {
		name += string([]byte{consonants[n%17], vowels[n/17%5]})
		n /= 85
	}
	return name
}
