// Package layering decides which store paths of an image share a layer.
//
// A registry stores and sends whole layers, so a layer is worth something only if other images hold
// exactly the same one. A layer of its own for every path would share perfectly, but an image has a
// budget of layers, and a large image has more paths than that. So paths of some size get a layer
// of their own, and a small path goes where its head goes.
//
// # Terms
//
// The key of a path is its name without hash and version: htop for all versions of htop.
//
// The head of a path is a path that pulls it in nearly every time it is pulled in: the two are
// together in most images anyway. Small paths of the same head are a group and share a layer.
//
// The patron of a group is, mostly, the package that first brought it. If an image has more groups
// than its budget has layers, small groups of the same patron share one. So what one package brings
// stays apart from what others bring, and an image with one package more has little anew.
//
// For example, the first image that a registry is asked for holds htop and nano, which refer to
// small libraries:
//
//	htop > libnl
//	htop > ncurses
//	nano > ncurses
//
// Only htop needs libnl, so htop is its head, and they are a group. nano needs ncurses, too, so
// ncurses is its own head and a group of its own. Its patron is htop, by name the first of the two
// that brought it. In an image of very many packages, these two groups share a layer. See the
// examples of [Assign] and [Group].
//
// # Memory
//
// Heads and patrons are kept: the first image that holds a path decides, later images and later
// versions of the path follow. Without that memory each image would cut the same paths differently.
// The memory is a map of keys.
//
// The package is pure: it does no I/O, keeps nothing, and its results depend on its arguments
// alone. An image takes two calls: [Assign] finds the heads of what is new, the caller adds them to
// its map, [Group] makes the layers.
package layering
