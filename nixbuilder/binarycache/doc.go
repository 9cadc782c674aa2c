// Package binarycache takes store paths from Nix's binary caches without a Nix store.
//
// A binary cache is a directory, mostly behind HTTP. For each store path it has two files: a small
// signed text (narinfo), with the path's references and the size and hash of its archive, and the
// archive itself (NAR), compressed. A cache is not trusted. A text counts if a trusted key has
// signed it, and an archive if it has the size and the hash that the text says.
//
// Caches are asked in the order of their priorities, as by Nix. A cache that fails is asked again a
// few times. Then the lookup goes on without it, and succeeds if other caches have all paths.
package binarycache
