package image

import (
	"encoding/json"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewManifest makes the OCI manifest over a config and layers of one media type, bottom first. The
// error is a *TooLargeError if nobody could read it.
func NewManifest(
	config []byte, layers []Layer, layerType string, annotations map[string]string,
) (Manifest, error) {
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{
			MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config)),
		},
		Annotations: annotations,
	}
	for _, l := range layers {
		manifest.Layers = append(manifest.Layers, v1.Descriptor{
			MediaType: layerType, Digest: l.Digest, Size: l.Size, Annotations: l.Annotations,
		})
	}
	made, err := encode(manifest.MediaType, manifest)
	made.Config = config
	return made, err
}

// AnnotationMissing names, in an index, the platforms that it should have and could not get,
// separated by commas.
const AnnotationMissing = "io.github.nixery-registry.missing-platforms"

// A PlatformManifest is what became of one platform of an image.
type PlatformManifest struct {
	// Platform is as OCI writes it: linux/amd64, linux/arm/v7.
	Platform string
	Manifest
	// Err is why the platform has no manifest.
	Err error
}

// NewIndex makes the OCI index over the manifests of those platforms that have one, in their order,
// and adds the others to the annotations. The error is a *TooLargeError if nobody could read it.
func NewIndex(built []PlatformManifest, annotations map[string]string) (Manifest, error) {
	index := v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Annotations: annotations,
	}
	var missing []string
	for _, one := range built {
		if one.Err != nil {
			missing = append(missing, one.Platform)
			continue
		}
		index.Manifests = append(index.Manifests, describe(one.MediaType, one.Payload, parsePlatform(one.Platform)))
	}
	if len(missing) > 0 {
		annotations[AnnotationMissing] = strings.Join(missing, ",")
	}
	return encode(index.MediaType, index)
}

// describe returns the descriptor of a manifest in an index.
func describe(mediaType string, payload []byte, platform v1.Platform) v1.Descriptor {
	return v1.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(payload), Size: int64(len(payload)), Platform: &platform,
	}
}

func encode(mediaType string, value any) (Manifest, error) {
	payload, err := json.Marshal(value)
	if err != nil {
		return Manifest{}, err
	}
	made := Manifest{MediaType: mediaType, Digest: digest.FromBytes(payload), Payload: payload}
	return made, checkDocument("manifest", len(payload))
}
