// Package store has the types for store paths, which all other packages share.
//
// A store path is a file or directory directly under /nix/store, named by a hash and a name. A
// closure is a set of store paths together with all that they refer to, roots included, sorted by
// path.
package store
