package nixbuilder

// Format is the version of the bytes of images. It only goes up, as its parts do, whatever release
// changes them: of two images of the same packages, the one of the higher format is the newer.
const Format = packFormat + rootFormat + listingFormat

const (
	// packFormat is part of every key of the record of a layer of store paths. It changes with the
	// bytes that package layer writes, and with how package layering groups paths.
	packFormat = 4
	// rootFormat is part of every key of the record of a root layer. It changes with the bytes that
	// package rootfs writes.
	rootFormat = 6
	// listingFormat is part of every key of a listing's record. It changes with what package nar
	// writes.
	listingFormat = 2
)
