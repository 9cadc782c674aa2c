package image

import (
	"fmt"
	"slices"
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

// maxStart is how many bytes the environment, entrypoint and command of an image may have together.
// Linux starts programs with 2 MiB at most. The rest is for what users add.
const maxStart = 1 << 20

// A TooLargeError refuses an image that a registry could store, and nobody could read or run.
type TooLargeError struct {
	// Part is "manifest", "config", or "environment and command".
	Part string
	// Bytes is how large it would be, and Most how large it may be.
	Bytes, Most int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf(
		"the %s of this image would have %d bytes, %d are allowed: all packages add to it, so ask for fewer at once",
		e.Part, e.Bytes, e.Most,
	)
}

func checkDocument(name string, bytes int) error {
	if bytes > MaxDocument {
		return &TooLargeError{Part: name, Bytes: bytes, Most: MaxDocument}
	}
	return nil
}

// checkStart refuses what no program could be started with.
func checkStart(container v1.ImageConfig) error {
	bytes := 0
	for _, text := range slices.Concat(container.Env, container.Entrypoint, container.Cmd) {
		bytes += len(text) + 1
	}
	if bytes > maxStart {
		return &TooLargeError{Part: "environment and command", Bytes: bytes, Most: maxStart}
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
