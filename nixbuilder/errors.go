package nixbuilder

import (
	"regexp"
	"strings"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// storePrefix is what a store path has before its name.
var storePrefix = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-`)

// unfitFor is what clients are told of a file that no image can have. A file of the store is named
// with its package.
func unfitFor(unfit *layer.UnfitError) *status.Error {
	name := storePrefix.ReplaceAllString("/"+strings.Trim(unfit.Path, "/"), "")
	return status.Errorf(status.Denied, "%.200q can't be part of an image: %s", name, unfit.Reason)
}

// tooLong is what clients are told when an image has taken all the time that there is for one.
func tooLong(total time.Duration) *status.Error {
	return status.Errorf(
		status.Denied, "making this image takes longer than the %v that build.total allows on this registry", total,
	)
}
