// Package nixbuilder makes container images from the names of Nix packages.
//
//	request, tag
//	  │  names                   what a name asks for
//	  │  source                  the package set, pinned to a revision
//	  │  eval                    its packages
//	  │  nixstore, binarycache   their store paths, with all that these refer to: a supply
//	  │  layering                groups of paths, one for each layer
//	  │  layer, rootfs           layers, as blobs of a Repository
//	  ▼  image                   config, manifest, index
//
// build.go is that pipeline, read top to bottom: Build, buildPlatform, supplyAndPack, assemble. The
// packages below hide one format or one program each. A Builder knows Nix and images but no HTTP:
// it writes layers into a Repository and keeps what it found out in a records.State, and both are
// its user's.
//
// # Terms
//
// A supply is where the store paths of one image come from: the Nix store (supply_store.go), what
// Nix is downloading into it (supply_download.go), or binary caches (supply_caches.go). Supplies
// are tried in turn.
//
// A group is the store paths that share a layer. The layout decides that, so that images share
// layers with each other. The root layer comes first: it has the packages merged into /bin, /etc
// and so on.
//
// What is kept is a hint. A package's record names store paths that are made valid before they are
// used; a layer's record names a blob that is looked for before it is mounted. Losing records costs
// time, never correctness.
package nixbuilder
