// Package names parses image names: shell/git/htop asks for the packages git and htop, and a shell.
//
// A name consists of package names, joined by slashes, under an optional prefix. Its first parts
// may be meta-packages, which are not looked up in the package set: shell and ci stand for packages
// that the operator chose, amd64 and arm64 choose a platform. The packages after them are a set:
// order and repetition do not matter.
package names
