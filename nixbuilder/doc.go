// Package nixbuilder makes container images from the names of Nix packages.
//
//	request + tag ─> pinned source ─> packages ─> store paths ─> closure ─> groups ─> layers ─> config, manifest
//	(names)          (source)         (eval)      (daemon)       (daemon)   (layering) (layer,    (image.go)
//	                                                                                   rootfs)
//
// Builder.Build is that pipeline, read top to bottom. The packages below hide one format or one
// program each. A Builder knows Nix and images but no HTTP: it writes layers and config into a
// Repository and keeps what it found out in a State, and both are its user's.
//
// What is kept is a hint. A package result names store paths that are made valid before they are
// used; a layer record names a blob that is looked for before it is mounted. Losing state costs
// time, never correctness.
package nixbuilder
