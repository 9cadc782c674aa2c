// Package binarycache takes store paths from Nix's binary caches without a Nix store.
//
// A binary cache is a directory, mostly behind HTTP. For each store path it has a small text
// (narinfo) with the path's references and the size and hash of its archive (NAR), signed, and the
// archive, compressed. Nothing else that a cache says is believed: a text counts if a trusted key
// has signed it, and an archive if it has the size and the hash that the text says.
//
// Caches are asked in the order of their priorities, as Nix does. One that fails is asked again a
// few times and then left out, as long as another one has the path.
package binarycache
