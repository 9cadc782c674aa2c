package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// allOutputs stands for every output of a derivation, in this package as on the wire.
const allOutputs = "*"

// A DerivedPath is a target of a request to Nix: a store path as it is, or outputs of a derivation.
// The zero value is neither. DerivedPaths can be compared with ==.
type DerivedPath struct {
	path    store.Path
	outputs string // sorted, joined by commas; empty: the path itself
}

// Opaque asks for a store path as it is: it can be fetched, not built.
func Opaque(p store.Path) DerivedPath { return DerivedPath{path: p} }

// Outputs asks for the named outputs of a derivation; for all if none is named. It fails if drv is
// not the path of a derivation, or if Nix does not allow an output's name.
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

// isOutputName tells whether s follows Nix's rules for names in the store, which an output's name
// is a part of.
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

// A key identifies a target in the daemon's answers.
type key struct {
	path  store.Path
	built bool
}

func (d DerivedPath) key() key { return key{d.path, d.outputs != ""} }

// merge joins the targets of each derivation into one, with all outputs, sorted by path: the daemon
// answers once for each derivation, however often it is asked.
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
