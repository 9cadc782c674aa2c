// Package rootfs makes the root layer of an image: the directories that programs expect, with the
// files of the requested packages in them as symbolic links into the store.
//
// The packages are merged like a Nix profile: directories become real ones that the container may
// write to, files become links, and of two packages with the same file the one of the better
// priority has it. A few files that programs count on (accounts, name lookup, /bin/sh) are added
// where no package brings them.
//
// What packages hold is not trusted: their links are resolved within the closure of the image and
// nowhere else.
package rootfs
