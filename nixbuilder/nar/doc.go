// Package nar reads Nix archives (NARs), the form in which a store path has a hash and travels: a
// file, a symbolic link, or a directory with all that is below it, in the order of names' bytes,
// without owners, times or modes but for one executable bit.
//
// An archive is not trusted: what Nix would not write is an error. github.com/nix-community/go-nix
// has a reader too, which is not used, because it takes names such as "..", the same name twice and
// any depth, ends a truncated archive like a whole one, and leaves a goroutine behind when it is
// not read to its end.
package nar
