package image

import (
	"encoding/json"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// AnnotationPackages lists what an image has, as a JSON list of objects with name (the attribute
// path in the package set), version and paths (the store paths that are merged into the root
// directory), sorted by name.
const AnnotationPackages = "io.github.nixery-registry.packages"

// AnnotationVariant names what an image depends on beside its package set, as NAME=VALUE with
// spaces between. Only images that depend on more have it.
const AnnotationVariant = "io.github.nixery-registry.variant"

// LabelNotes says, as sentences with semicolons between, which modules of languages an image has
// that its interpreters don't find (rootfs.Tree.Notes). Only images with such modules have it.
const LabelNotes = "io.github.nixery-registry.notes"

// MaxLabel is how many bytes the name and the value of a label may have together. containerd refuses
// to make a container with a longer one; its CRI plugin and other clients drop the label.
const MaxLabel = 4096

// An Origin is the package set that an image is built from.
type Origin struct {
	Source, Revision string
	// Date is the revision's, zero if it has none.
	Date time.Time
	// Variant is what packages depend on beside the set, as NAME=VALUE.
	Variant []string
}

type annotatedPackage struct {
	Name    string       `json:"name"`
	Version string       `json:"version,omitempty"`
	Paths   []store.Path `json:"paths"`
}

// Provenance says what an image was built from: the annotations of its manifest, which are its
// labels, too, up to MaxLabel. All of it follows from the request, which is the title, and the package set
// (docs/decisions/provenance.md).
func Provenance(title string, packages []Package, origin Origin) (map[string]string, error) {
	list := make([]annotatedPackage, len(packages))
	for i, p := range packages {
		list[i] = annotatedPackage{Name: p.Name, Version: p.Version, Paths: p.Paths}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	annotations := origin.annotations(title)
	annotations[AnnotationPackages] = string(text)
	if len(origin.Variant) > 0 {
		annotations[AnnotationVariant] = strings.Join(origin.Variant, " ")
	}
	return annotations, nil
}

// label makes labels of an image's provenance. One that is too long is left out, and so is what a
// package says under its name.
func label(labels, provenance map[string]string) {
	for name, value := range provenance {
		if len(name)+len(value) > MaxLabel {
			delete(labels, name)
		} else {
			labels[name] = value
		}
	}
}

// IndexProvenance says what the images of an index were built from: the index's annotations.
func IndexProvenance(title string, origin Origin) map[string]string { return origin.annotations(title) }

func (o Origin) annotations(title string) map[string]string {
	return map[string]string{
		v1.AnnotationSource: o.Source, v1.AnnotationRevision: o.Revision, v1.AnnotationTitle: title,
	}
}
