package image

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// An Image is a built image.
type Image struct {
	// Manifest is what a tag stands for: an image manifest, or the index of Children.
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

// A Manifest is the bytes of an image manifest or an index.
type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Payload   []byte
	// Config is the blob that an image manifest begins with; an index has none.
	Config []byte
}

// A Blob is a layer as it is stored.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes, compressed
	DiffID digest.Digest `json:"diffID"`
	// Annotations are those of its descriptor.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// A Layer is a blob and the store paths in it. The root layer has none.
type Layer struct {
	Paths []store.Path `json:"paths"`
	Blob
}

// MaxDocument is how large a manifest or config may be, in bytes. Distribution reads no larger
// manifest, and some clients read no larger config.
const MaxDocument = 4 << 20

// A TooLargeError refuses a manifest or config that a registry could store, and nobody could read.
type TooLargeError struct {
	// Document is "manifest" or "config".
	Document string
	// Bytes is how large it would be.
	Bytes int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf(
		"the %s of this image would have %d bytes, %d are allowed: it names all packages and store paths, so ask for fewer packages at once",
		e.Document, e.Bytes, MaxDocument,
	)
}

func checkDocument(name string, bytes int) error {
	if bytes > MaxDocument {
		return &TooLargeError{Document: name, Bytes: bytes}
	}
	return nil
}

func parsePlatform(platform string) v1.Platform {
	parts := strings.SplitN(platform, "/", 3)
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p
}
