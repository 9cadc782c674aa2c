package nixbuilder

import (
	"encoding/json"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// AnnotationPackages is what an image has, as a JSON list of objects with name (the attribute path
// in the package set), version and paths (the store paths that are merged into the root directory),
// sorted by name.
const AnnotationPackages = "io.github.nixery-registry.packages"

// AnnotationVariant is what an image depends on beside its package set, as NAME=VALUE with spaces
// between. Only images that do have it.
const AnnotationVariant = "io.github.nixery-registry.variant"

type annotatedPackage struct {
	Name    string       `json:"name"`
	Version string       `json:"version,omitempty"`
	Paths   []store.Path `json:"paths"`
}

// provenance is what an image was built from: its labels, and the annotations of its manifest. All
// of it follows from the request and the package set (docs/decisions/provenance.md).
func provenance(request names.Request, chosen packages, pinned source.Pinned) (map[string]string, error) {
	list := make([]annotatedPackage, len(chosen))
	for i, c := range chosen {
		list[i] = annotatedPackage{Name: c.attribute(), Version: c.Version, Paths: c.installed()}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{
		v1.AnnotationSource:   pinned.Name,
		v1.AnnotationRevision: pinned.Revision,
		v1.AnnotationTitle:    request.String(),
		AnnotationPackages:    string(text),
	}
	if len(pinned.Variant) > 0 {
		labels[AnnotationVariant] = strings.Join(pinned.Variant, " ")
	}
	return labels, nil
}
