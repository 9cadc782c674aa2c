// Package daemon asks Nix for store paths: what is there, what would have to be built or fetched,
// build it, what it refers to.
//
// It speaks the worker protocol with a long-lived `nix-daemon --stdio`, so that asking costs no new
// process. That program works on the store itself where it may (root, or a store of one's own) and
// passes everything on to the system's daemon where it may not; the answers are the same. Nix 2.8
// or later is needed.
//
// A [Conn] is one such process. A [Pool] keeps some, replaces those that died, and is what a server
// holds.
//
// # Terms
//
// A temporary root keeps a store path, and all that it refers to, from the garbage collector for as
// long as the Conn that added it lives. The order that leaves no gap: add roots, build, read, put
// the Conn back.
//
// A [DerivedPath] is what can be asked for: a store path as it is, or outputs of a derivation.
//
// Everything that arrives is checked: lengths and counts have limits, paths are store paths, texts
// are free of control characters.
package daemon
