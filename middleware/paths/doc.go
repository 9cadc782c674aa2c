// Package paths knows where the registry's storage keeps what. That is upstream's layout, which
// upstream documents as that of its storage (registry/storage/paths.go) and does not export, and the
// root of this program's own records beside it.
//
// Paths are absolute, as storage drivers want them. A blob and a link each have a directory of their
// own, so that a driver can delete them whole.
package paths
