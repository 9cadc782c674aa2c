package layer

import (
	"fmt"
	"strings"
)

// whiteout begins the names that delete files of lower layers (OCI image-spec, layer.md).
const whiteout = ".wh."

// maxPathBytes is how long the name of a file may be, below the root directory: Linux's limit,
// without the zero byte and the slash before it. Clients could not unpack a longer one.
const maxPathBytes = 4094

// Unfit returns the reason why no image can have a file of that name in a directory whose path has
// dirBytes bytes. It is empty if an image can.
func Unfit(dirBytes int, name string) string {
	switch {
	case strings.HasPrefix(name, whiteout):
		return "names that begin with " + whiteout + " stand for deletions in a layer"
	case dirBytes+1+len(name) > maxPathBytes:
		return fmt.Sprintf("its name is longer than %d bytes", maxPathBytes)
	}
	return ""
}

// UnfitError means that a package holds a file that cannot be part of an image. To try again would
// give the same error.
type UnfitError struct {
	// Path names the file: below the root directory of the image, without a leading slash, or in
	// the store.
	Path   string
	Reason string
}

func (e *UnfitError) Error() string { return fmt.Sprintf("archiving %q: %s", e.Path, e.Reason) }
