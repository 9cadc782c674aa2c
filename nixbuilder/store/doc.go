// Package store holds the words that every other part speaks about the Nix store in.
//
// A store path is a file or directory directly under /nix/store, named by a hash and a name. A
// closure is a set of store paths together with all that they refer to, roots included, sorted by
// path.
package store
