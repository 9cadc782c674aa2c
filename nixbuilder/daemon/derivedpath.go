package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// allOutputs stands for every output of a derivation, in this package as on the wire.
const allOutputs = "*"

// DerivedPath is something that can be asked of Nix: a store path as it is, or outputs of a
// derivation. The zero value is neither; DerivedPaths compare with ==.
type DerivedPath struct {
	path    store.Path
	outputs string // sorted, joined by commas; empty: the path itself
}

// Opaque asks for a store path as it is: it can be fetched, not built.
func Opaque(p store.Path) DerivedPath { return DerivedPath{path: p} }

// Outputs asks for the named outputs of a derivation, all of them when none is named. It fails
// if drv is not a derivation's path or an output has a name that Nix does not allow.
func Outputs(drv store.Path, outputs ...string) (DerivedPath, error) {
	if !strings.HasSuffix(string(drv), ".drv") {
		return DerivedPath{}, fmt.Errorf("asking for outputs of %s: not a derivation", drv)
	}
	for _, o := range outputs {
		if !isOutputName(o) {
			return DerivedPath{}, fmt.Errorf("asking for output %q of %s: not an output name", o, drv)
		}
	}
	if len(outputs) == 0 {
		return DerivedPath{drv, allOutputs}, nil
	}
	sorted := slices.Sorted(slices.Values(outputs))
	return DerivedPath{drv, strings.Join(slices.Compact(sorted), ",")}, nil
}

// isOutputName says whether s follows Nix's rules for names in the store, of which an output's name
// is a part.
func isOutputName(s string) bool {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-._?="
	return s != "" && len(s) <= 211 && strings.Trim(s, alphabet) == ""
}

// Path is the store path itself or the derivation's.
func (d DerivedPath) Path() store.Path { return d.path }

// String is the protocol's spelling: /nix/store/…-x, /nix/store/…-x.drv!dev,out or
// /nix/store/…-x.drv!*.
func (d DerivedPath) String() string {
	if d.outputs == "" {
		return string(d.path)
	}
	return string(d.path) + "!" + d.outputs
}

// key is what the daemon tells targets apart by.
type key struct {
	path  store.Path
	built bool
}

func (d DerivedPath) key() key { return key{d.path, d.outputs != ""} }

// merge leaves one target per derivation, with all outputs that were asked for, sorted by path: the
// daemon answers once per derivation, whatever was asked.
func merge(targets []DerivedPath) []DerivedPath {
	outputs := map[key][]string{}
	for _, t := range targets {
		outputs[t.key()] = append(outputs[t.key()], strings.Split(t.outputs, ",")...)
	}
	merged := make([]DerivedPath, 0, len(outputs))
	for k, names := range outputs {
		slices.Sort(names)
		d := DerivedPath{k.path, strings.Join(slices.Compact(names), ",")}
		if slices.Contains(names, allOutputs) {
			d.outputs = allOutputs
		}
		merged = append(merged, d)
	}
	slices.SortFunc(merged, func(a, b DerivedPath) int { return strings.Compare(a.String(), b.String()) })
	return merged
}
