package nixbuilder

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// The media types of Docker's image format, version 2, schema 2.
const (
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerTar  = "application/vnd.docker.image.rootfs.diff.tar"
)

// searchPath is where programs are in every image. Packages are merged into /bin and /sbin; the
// others are for what users put on top.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxDocument is how large a manifest or config may be, in bytes. Distribution reads no larger
// manifest, and some clients no larger config.
const maxDocument = 4 << 20

// checkDocument refuses a manifest or config that a registry could store, but nobody could read.
func checkDocument(name string, bytes int) error {
	if bytes > maxDocument {
		return Errorf(
			Denied,
			"the %s of this image would have %d bytes, %d are allowed: it names all packages and store paths, so ask for fewer packages at once",
			name, bytes, maxDocument,
		)
	}
	return nil
}

// epoch is when images were created whose package set has no date: a second past 1970, as
// everything in the Nix store.
var epoch = time.Unix(1, 0).UTC()

// An Image is a built image, all of whose layers are stored or, as far as Repository.Upload
// returned before, being stored.
type Image struct {
	// Manifest is what a tag is for: an image manifest, or the index of Children.
	Manifest Manifest
	// Children are the manifests in an index, in the order of the platforms.
	Children []Manifest
	// Missing are the platforms that an index should have and could not get.
	Missing []string
	// Source and Revision are what it was built from.
	Source, Revision string
	// NixVersion is of the Nix that evaluated its packages.
	NixVersion string
}

// A Manifest is the bytes of one, and what they are.
type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Payload   []byte
	// Config is the blob that an image's manifest begins with.
	Config []byte
}

// A Blob is a layer as it is stored.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	DiffID digest.Digest `json:"diffID"`
	// Annotations are those of its descriptor.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// A packedLayer is a layer and the store paths in it; the root layer has none.
type packedLayer struct {
	Paths []store.Path `json:"paths"`
	Blob
}

// imageConfig describes layers, bottom first, as an image. The history tells which store paths each
// holds: the image can be checked, and made again, from that alone.
func imageConfig(
	layers []packedLayer, platform string, pinned source.Pinned, container v1.ImageConfig,
) ([]byte, error) {
	created := epoch
	if !pinned.Date.IsZero() {
		created = pinned.Date.UTC()
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
			history.CreatedBy = "nix: " + joined(l.Paths)
		}
		image.History = append(image.History, history)
	}
	config, err := json.Marshal(image)
	if err != nil {
		return nil, err
	}
	return config, checkDocument("config", len(config))
}

// leastConfig is how many bytes the config of an image has at the least.
func leastConfig(o order, closure []store.PathInfo) (bytes int) {
	for _, info := range closure {
		bytes += len(info.Path)
	}
	for name, label := range o.labels {
		bytes += len(name) + len(label)
	}
	return bytes
}

func joined(paths []store.Path) string {
	var b strings.Builder
	for i, p := range paths {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(p))
	}
	return b.String()
}

func parsePlatform(platform string) v1.Platform {
	parts := strings.SplitN(platform, "/", 3)
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p
}

// imageManifest is the OCI manifest over a config and layers, bottom first.
func imageManifest(
	config []byte, layers []packedLayer, compression layer.Compression, annotations map[string]string,
) (Manifest, error) {
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{
			MediaType: v1.MediaTypeImageConfig,
			Digest:    digest.FromBytes(config),
			Size:      int64(len(config)),
		},
		Annotations: annotations,
	}
	for _, l := range layers {
		manifest.Layers = append(
			manifest.Layers,
			v1.Descriptor{
				MediaType:   compression.MediaType(),
				Digest:      l.Digest,
				Size:        l.Size,
				Annotations: l.Annotations,
			},
		)
	}
	made, err := newManifest(manifest.MediaType, manifest)
	made.Config = config
	return made, err
}

// AnnotationMissing names, in an index, the platforms that it should have and could not get,
// separated by commas.
const AnnotationMissing = "io.github.nixery-registry.missing-platforms"

// A platformManifest is what became of one platform of an image.
type platformManifest struct {
	platform string
	Manifest
	err error
}

// imageIndex is the OCI index over the manifests of those platforms that have one, in their order.
func imageIndex(built []platformManifest, annotations map[string]string) (Manifest, error) {
	index := v1.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   v1.MediaTypeImageIndex,
		Annotations: annotations,
	}
	var missing []string
	for _, one := range built {
		if one.err != nil {
			missing = append(missing, one.platform)
			continue
		}
		platform := parsePlatform(one.platform)
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: one.MediaType, Digest: one.Digest, Size: int64(len(one.Payload)), Platform: &platform,
		})
	}
	if len(missing) > 0 {
		annotations[AnnotationMissing] = strings.Join(missing, ",")
	}
	return newManifest(index.MediaType, index)
}

func newManifest(mediaType string, value any) (Manifest, error) {
	payload, err := json.Marshal(value)
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{
			MediaType: mediaType,
			Digest:    digest.FromBytes(payload),
			Payload:   payload,
		}, checkDocument(
			"manifest", len(payload),
		)
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
	docker, err = newManifest(dockerManifest, manifest)
	return docker, err == nil, err
}
