package image

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of Docker's image format, version 2, schema 2.
const (
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerTar  = "application/vnd.docker.image.rootfs.diff.tar"
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
		platform := parsePlatform(one.Platform)
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: one.MediaType, Digest: one.Digest, Size: int64(len(one.Payload)), Platform: &platform,
		})
	}
	if len(missing) > 0 {
		annotations[AnnotationMissing] = strings.Join(missing, ",")
	}
	return encode(index.MediaType, index)
}

// DockerForm makes the Docker schema 2 manifest of the same image out of an OCI manifest, over the
// same blobs. It is false where Docker has no such form: for layers compressed with zstd, and for
// an index.
func DockerForm(oci []byte) (docker Manifest, ok bool, err error) {
	var manifest v1.Manifest
	if err := json.Unmarshal(oci, &manifest); err != nil {
		return Manifest{}, false, fmt.Errorf("reading manifest: %w", err)
	}
	if manifest.MediaType != v1.MediaTypeImageManifest {
		return Manifest{}, false, nil
	}
	manifest.MediaType = dockerManifest
	manifest.Config.MediaType = dockerConfig
	manifest.Annotations = nil // the schema has none
	for i := range manifest.Layers {
		manifest.Layers[i].Annotations = nil
		switch l := &manifest.Layers[i]; l.MediaType {
		case v1.MediaTypeImageLayerGzip:
			l.MediaType = dockerLayerGzip
		case v1.MediaTypeImageLayer:
			l.MediaType = dockerLayerTar
		default:
			return Manifest{}, false, nil
		}
	}
	docker, err = encode(dockerManifest, manifest)
	return docker, err == nil, err
}

func encode(mediaType string, value any) (Manifest, error) {
	payload, err := json.Marshal(value)
	if err != nil {
		return Manifest{}, err
	}
	made := Manifest{MediaType: mediaType, Digest: digest.FromBytes(payload), Payload: payload}
	return made, checkDocument("manifest", len(payload))
}
