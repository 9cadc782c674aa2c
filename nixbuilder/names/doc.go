// Package names reads what an image name asks for: shell/git/htop is the packages git and htop with
// a shell around them.
//
// A name is package names joined by slashes, under an optional prefix. Its first parts may be
// meta-packages, which are not looked up in the package set: shell stands for a set of packages
// that the operator chose, amd64 and arm64 choose a platform. What follows is a set: order and
// repetition do not matter.
package names
