package image

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of Docker's image format, version 2, schema 2.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"

	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerTar  = "application/vnd.docker.image.rootfs.diff.tar"
)

// ErrNoDockerForm means that Docker's format has no media type for the layers of an image: for
// those that are compressed with zstd.
var ErrNoDockerForm = errors.New("docker's image format has no layers compressed with zstd")

// DockerForm makes the Docker schema 2 manifest of the same image out of an OCI image manifest,
// over the same blobs. It may fail with ErrNoDockerForm.
//
// Clients pin the digests of forms, and forms are made again for them: a form of the same manifest
// must always have the same bytes. That holds for all functions here.
func DockerForm(oci []byte) (Manifest, error) {
	manifest, err := parseManifest(oci)
	if err != nil {
		return Manifest{}, err
	}
	manifest.MediaType = MediaTypeDockerManifest
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
			return Manifest{}, ErrNoDockerForm
		}
	}
	return encode(MediaTypeDockerManifest, manifest)
}

// ConfigOf returns the descriptor of an OCI image manifest's config.
func ConfigOf(oci []byte) (v1.Descriptor, error) {
	manifest, err := parseManifest(oci)
	return manifest.Config, err
}

func parseManifest(oci []byte) (manifest v1.Manifest, err error) {
	if err := json.Unmarshal(oci, &manifest); err != nil {
		return manifest, fmt.Errorf("reading manifest: %w", err)
	}
	if manifest.MediaType != v1.MediaTypeImageManifest {
		return manifest, fmt.Errorf("reading manifest: it is a %q", manifest.MediaType)
	}
	return manifest, nil
}

// PlatformOf reads the platform that a config is for.
func PlatformOf(config []byte) (v1.Platform, error) {
	var image v1.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return v1.Platform{}, fmt.Errorf("reading config: %w", err)
	}
	return image.Platform, nil
}

// IndexOfOne makes the OCI index of one image manifest, with its annotations.
func IndexOfOne(child Child) (Manifest, error) {
	manifest, err := parseManifest(child.Payload)
	if err != nil {
		return Manifest{}, err
	}
	return encode(v1.MediaTypeImageIndex, v1.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   v1.MediaTypeImageIndex,
		Manifests:   []v1.Descriptor{describe(v1.MediaTypeImageManifest, child.Payload, child.Platform)},
		Annotations: manifest.Annotations,
	})
}

// A Child is an OCI image manifest, and the platform that it is for.
type Child struct {
	Payload  []byte
	Platform v1.Platform
}

// DockerList makes the Docker manifest list over the Docker forms of image manifests. It also
// returns these forms, in the order of their manifests. It may fail with ErrNoDockerForm.
func DockerList(children []Child) (list Manifest, forms []Manifest, err error) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: MediaTypeDockerList}
	for _, child := range children {
		form, err := DockerForm(child.Payload)
		if err != nil {
			return Manifest{}, nil, err
		}
		forms = append(forms, form)
		index.Manifests = append(index.Manifests, describe(form.MediaType, form.Payload, child.Platform))
	}
	list, err = encode(index.MediaType, index)
	return list, forms, err
}
