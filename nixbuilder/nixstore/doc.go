// Package nixstore fills a machine's Nix store with what images need, and keeps it there while they
// are made. It asks Nix's daemon, and knows nothing of layers.
//
// # Terms
//
// Packages are realised: their outputs are downloaded from binary caches, or built. What is there
// has temporary roots until Paths.Close, so that Nix's garbage collector leaves it alone. What can
// all be downloaded may be handed over while it arrives.
//
// A package floats if only building it tells its store paths: it is content-addressed, or made of
// what is. Settle builds it.
//
// A build that fails has a build log, which tells the cause where the daemon's answer does not.
// Whoever asked for the image is told what the package has to answer for, as a *status.Error; all
// else is for the operator.
package nixstore
