// Package rootfs makes the root layer of an image: the directories that programs expect, with the
// files of the requested packages in them as symbolic links into the store.
//
// The packages are merged like a Nix profile. Directories become real ones that the container may
// write to, and files become links. If two packages have the same file, that of the better priority
// is taken. A few files that programs count on (accounts, name lookup, /bin/sh) are added where no
// package brings them.
//
// Interpreters find the modules of packages (modules.go), and programs find data such as time zones
// and fonts (data.go), by variables of the environment and by links.
//
// Most directories belong to one package. They stay lazy: their files are counted, but do not
// become nodes of the tree. The larger ones are sections of the layer (see layer.WriteSections),
// which are written fast if an earlier root layer had them, too.
//
// What packages hold is not trusted: their links are resolved within the closure of the image and
// nowhere else.
package rootfs
