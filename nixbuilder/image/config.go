package image

import (
	"cmp"
	"encoding/json"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// epoch is when images were created whose package set has no date: a second past 1970, as
// everything in the Nix store.
var epoch = time.Unix(1, 0).UTC()

// Config describes layers, bottom first, as an image for a platform. Created is the date of the
// package set, or zero if it has none.
//
// The history tells which store paths each layer holds: the image can be checked, and made again,
// from that alone. The error is a *TooLargeError if nobody could read the config or run the image.
func Config(layers []Layer, platform string, created time.Time, container v1.ImageConfig) ([]byte, error) {
	if err := checkStart(container); err != nil {
		return nil, err
	}
	if created = created.UTC(); created.IsZero() {
		created = epoch
	}
	image := v1.Image{
		Created:  &created,
		Platform: parsePlatform(platform),
		Config:   container,
		RootFS:   v1.RootFS{Type: "layers"},
	}
	for _, l := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.DiffID)
		history := v1.History{Created: &created, CreatedBy: "nix: profile"}
		if len(l.Paths) > 0 {
			history.CreatedBy = "nix: " + store.Join(l.Paths)
		}
		image.History = append(image.History, history)
	}
	config, err := json.Marshal(image)
	if err != nil {
		return nil, err
	}
	return config, checkDocument("config", len(config))
}

// CheckDocuments refuses an image whose config or manifest would be too large, before anything of it
// is packed. The config has at least the store paths of the closure, the manifest the annotations.
func CheckDocuments(closure []store.PathInfo, annotations map[string]string) error {
	config, manifest := 0, 0
	for _, info := range closure {
		config += len(info.Path)
	}
	for name, value := range annotations {
		manifest += len(name) + len(value)
	}
	return cmp.Or(checkDocument("config", config), checkDocument("manifest", manifest))
}
