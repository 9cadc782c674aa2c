package nixbuilder

import (
	"cmp"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A chosen package is one of those in an image.
type chosen struct {
	name  string // as it was asked for
	asked bool   // by the client, not by the operator's shell and include
	eval.Package
}

// attribute is the package's path in the package set, dotted, with the output that was named.
func (c chosen) attribute() string {
	if c.Output != "" {
		return strings.Join(c.Attr, ".") + "." + c.Output
	}
	return strings.Join(c.Attr, ".")
}

// installed are the store paths of the outputs that a user of the package gets, in the package's
// order.
func (c chosen) installed() []store.Path {
	paths := make([]store.Path, 0, len(c.OutputsToInstall))
	for _, output := range c.OutputsToInstall {
		paths = append(paths, c.Outputs[output])
	}
	return paths
}

// packages are sorted by attribute path, and each installs an output that no other one installs.
type packages []chosen

// outputs are the store paths that an image of the packages installs, sorted.
func (p packages) outputs() []store.Path {
	var paths []store.Path
	for _, c := range p {
		paths = append(paths, c.installed()...)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// unique sorts packages by attribute path and leaves out those that are there under another name.
// Such a package installs no output that another one of the same derivation does not install:
// python, for example, beside python3. What a client asked for stays asked for.
func (p packages) unique() packages {
	byPath := func(a, b chosen) int {
		return cmp.Or(
			slices.Compare(a.Attr, b.Attr), strings.Compare(a.Output, b.Output),
			strings.Compare(a.name, b.name),
		)
	}
	slices.SortStableFunc(p, func(a, b chosen) int {
		return cmp.Or(cmp.Compare(len(b.OutputsToInstall), len(a.OutputsToInstall)), byPath(a, b))
	})
	var unique packages
	for _, c := range p {
		covers := func(other chosen) bool {
			return other.Derivation == c.Derivation &&
				!slices.ContainsFunc(
					c.OutputsToInstall,
					func(output string) bool { return !slices.Contains(other.OutputsToInstall, output) },
				)
		}
		if i := slices.IndexFunc(unique, covers); i < 0 {
			unique = append(unique, c)
		} else if c.asked {
			unique[i].asked = true
		}
	}
	slices.SortStableFunc(unique, byPath)
	return unique
}

// described are the packages as an image's documents tell of them.
func (p packages) described() []image.Package {
	described := make([]image.Package, len(p))
	for i, c := range p {
		described[i] = image.Package{
			Name: c.attribute(), Version: c.Version, Paths: c.installed(), Derivation: c.Derivation,
			Asked: c.asked, MainProgram: c.MainProgram, Pname: c.Pname, Settings: (*image.Settings)(c.Image),
		}
	}
	return described
}

func (c chosen) needed() nixstore.Package {
	return nixstore.Package{
		Name: c.name, Derivation: c.Derivation, Outputs: c.Outputs, Install: c.OutputsToInstall,
	}
}

// withOutputs returns packages with the outputs that were found for them, in their order.
func (p packages) withOutputs(settled []nixstore.Package) packages {
	all := make(packages, len(p))
	for i, c := range p {
		c.Outputs = settled[i].Outputs
		all[i] = c
	}
	return all
}
