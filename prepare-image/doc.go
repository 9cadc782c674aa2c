// Package prepareimage holds the Nix expressions that images are prepared with. They need nothing
// of nixpkgs, and are files of their own so that they can be tried by hand with nix-instantiate.
package prepareimage
