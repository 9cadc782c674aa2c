package nixstore

import (
	"context"
	"maps"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Wanted are packages that an image is made of.
type Wanted struct {
	Packages []Package
	// Instantiate has the derivations of packages written into the store. It gets their names.
	Instantiate func(ctx context.Context, names []string) error
	// Who waits for them.
	Who limit.Asker
	// Clock stands still while the image waits for others; nil: nobody waits.
	Clock *limit.Clock
}

// A Package is a derivation, and what a user of it gets.
type Package struct {
	// Name is what Instantiate knows it by.
	Name       string
	Derivation store.Path
	// Outputs are the store paths of its outputs, by name, empty for those that float. Others may
	// have the map, too: it is not changed.
	Outputs map[string]store.Path
	// Install are the names of those that a user of the package gets.
	Install []string
}

// paths are those of what a user of the package gets.
func (p Package) paths() []store.Path {
	paths := make([]store.Path, 0, len(p.Install))
	for _, output := range p.Install {
		paths = append(paths, p.Outputs[output])
	}
	return paths
}

// floats tells whether only building tells one of its paths.
func (p Package) floats() bool {
	return slices.ContainsFunc(p.Install, func(output string) bool { return p.Outputs[output] == "" })
}

// outputKey is that of the record of an output that floats.
func (p Package) outputKey(output string) string { return records.Key(string(p.Derivation), output) }

// outputs are the store paths of all packages, sorted.
func (w Wanted) outputs() []store.Path {
	var paths []store.Path
	for _, p := range w.Packages {
		paths = append(paths, p.paths()...)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// with are the packages that have one of paths.
func (w Wanted) with(paths []store.Path) (with []Package) {
	for _, p := range w.Packages {
		if slices.ContainsFunc(p.paths(), func(own store.Path) bool { return slices.Contains(paths, own) }) {
			with = append(with, p)
		}
	}
	return with
}

// at returns packages with the paths of outputs that float, by key.
func at(packages []Package, paths map[string]store.Path) []Package {
	settled := slices.Clone(packages)
	for i, p := range settled {
		outputs := maps.Clone(p.Outputs)
		for output := range outputs {
			if path, ok := paths[p.outputKey(output)]; ok {
				outputs[output] = path
			}
		}
		settled[i].Outputs = outputs
	}
	return settled
}
