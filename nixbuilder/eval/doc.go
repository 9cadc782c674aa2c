// Package eval asks Nix what the packages of a package set are: which derivation and which store
// paths each name stands for.
//
// A package set is untrusted work. It is evaluated by an unprivileged process with limits on memory
// and processor time, which can read nothing but the set, writes nothing, and has no network unless
// some of it was allowed. What it fetches, and what was built for it to read, is in a *persistent
// store*: a Nix store that belongs to the unprivileged user, and that revisions share if the
// operator has chosen all of them. One process evaluates all names that are asked for at once. A
// package that cannot be evaluated is a Failure, which is a result like any other; an error means
// that Nix could not be asked, or that the set as a whole is at fault.
//
// Only what a user would install is a package: a derivation that is reached through attribute sets,
// or one of its outputs, by name. Other attributes of a derivation, such as its source or its build
// environment, are not.
package eval
