// Package layer turns store paths into the layers of an image, as streams.
//
// A layer is a tar archive, compressed or not (package compress). Its digest and size are those of
// the bytes that the registry stores and clients fetch. Its diff ID is the digest of the archive
// before compression, which clients check after unpacking.
//
// The bytes of a layer depend on its store paths and its compression alone: entries are sorted,
// owners are 0, times are one second past 1970, files have the store's own modes (0444 or 0555) and
// directories 0755. The file system that the store lies on (inodes, hard links, order) has no
// influence. So the same layer can be made again anywhere, from another store or from a binary
// cache's archives.
package layer
