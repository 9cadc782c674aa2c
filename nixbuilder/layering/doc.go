// Package layering decides which store paths of an image share a layer.
//
// A registry stores and sends whole layers, so a layer is worth something only if other images hold
// exactly the same one. A layer of its own for every path would share perfectly, but an image has a
// budget of layers and a large image has more paths than that. So paths of some size get a layer of
// their own, and a small path goes where its head goes. The head of a path is a path that pulls it
// in nearly every time it is pulled in: the two are together in most images anyway.
//
// Which head a path has is kept: the first image that holds a path decides, later images and later
// versions of the path follow. Without that memory each image would cut the same paths differently.
// The memory is a map of keys, and a key is the name of a path without its hash and version.
//
// The package is pure: it does no I/O, keeps nothing, and its results depend on its arguments
// alone. An image takes two calls: [Assign] finds the heads of what is new, the caller adds them to
// its map, [Group] makes the layers.
package layering
