// Package image writes the documents of container images: configs, manifests and indexes in the
// forms of OCI and Docker, and what they say of where an image comes from and how it runs.
//
// It reads and stores nothing. Equal arguments make equal bytes, so an image made on two hosts has
// one digest.
package image
