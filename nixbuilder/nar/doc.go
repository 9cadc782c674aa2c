// Package nar reads Nix archives (NARs). A store path travels in this form, and its hash is that of
// this form. An archive is a file, a symbolic link, or a directory with all that is below it, in
// the order of the names' bytes. It has no owners, no times, and of modes only one executable bit.
//
// An archive is not trusted: what Nix would not write is an error. Two other readers were looked at
// and are not used.
//
// github.com/nix-community/go-nix/pkg/nar accepts names such as "..", the same name twice and any
// depth, ends a truncated archive like a whole one, and leaves a goroutine behind when it is not
// read to its end.
//
// zombiezen.com/go/nix/nar refuses names that are not UTF-8, which Nix allows, does not check that
// the padding is zeros, and has no limit for the depth.
package nar
