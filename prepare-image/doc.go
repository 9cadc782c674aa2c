// Package prepareimage holds the Nix expressions by which images are prepared. They need nothing of
// nixpkgs. They are files of their own, so that people can try them by hand with nix-instantiate.
package prepareimage
