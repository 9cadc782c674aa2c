// Package nixpkgslike writes package sets in the shape of nixpkgs and of its size, to test and
// measure with where nixpkgs itself can't be had.
//
// What makes nixpkgs slow to use is there: tens of thousands of directories in pkgs/by-name that
// are listed and read as attributes, all-packages.nix and a list of aliases that throw, callPackage
// with overridable results, a fixed point over overlays, large nested sets (python3Packages,
// haskellPackages), a standard environment that is built in stages, and meta that refuses unfree,
// broken, insecure and unsupported packages. Every package can be built with nothing but busybox,
// and is a program of its name that says its name and version. A few names are real packages, those
// of the demo set.
package nixpkgslike
