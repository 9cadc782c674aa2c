// Package daemon asks Nix about store paths: which are there, what would have to be built or
// fetched, what a path refers to. It also has Nix build them.
//
// It speaks the worker protocol with a long-lived `nix-daemon --stdio`, so that asking costs no new
// process. That program works on the store itself if it may (as root, or on a store of one's own),
// and passes everything on to the system's daemon if not; the answers are the same. Nix 2.8 or
// later is needed.
//
// A [Conn] is one such process. A [Pool] keeps some of them for a server, and replaces those that
// died.
//
// # Terms
//
// A temporary root keeps a store path, and all that it refers to, from the garbage collector for as
// long as the Conn that added it lives. The order that leaves no gap: add roots, build, read, put
// the Conn back.
//
// A [DerivedPath] is a target of a request: a store path as it is, or outputs of a derivation.
//
// Everything that arrives is checked: lengths and counts have limits, paths are store paths, texts
// are free of control characters.
package daemon
