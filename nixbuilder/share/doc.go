// Package share gives what Nix has built here to other replicas, by a binary cache that they share.
//
// A Share is told which derivations are going to be built, and when that is over. It keeps a list of
// what waits to be copied, in a directory, so that nothing is forgotten when the process ends. Nix
// copies in the background, one path with all that it refers to at a time, and signs what it copies
// with a secret key. Replicas with the same key trust that signature.
//
// No image waits for it or fails because of it. Where the cache does not answer, images are made as
// if there were none.
package share
