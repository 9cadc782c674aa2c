// Package eval asks Nix what the packages of a package set are: which derivation and which store
// paths each name stands for.
//
// A package set is untrusted work. An unprivileged process evaluates it, with limits on memory and
// processor time. The process can read nothing but the set, writes nothing, and has no network
// unless the operator allows the set to fetch. What a set fetches, and what was built for it to
// read, lies in a *persistent store*: a Nix store that belongs to the unprivileged user. Revisions
// share one if the operator has chosen all of them.
//
// One process evaluates all names of a call. A package that cannot be evaluated is a [Failure],
// which is a result like any other. An error means that Nix could not be asked, or that the set as
// a whole is at fault (a [SourceError]).
//
// Only what a user would install is a package: a derivation that is reached through attribute sets,
// or one of its outputs, by name. Other attributes of a derivation, such as its source or its build
// environment, are not.
package eval
