package daemon

import (
	"slices"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	pathA = store.Dir + "/00000000000000000000000000000000-a"
	drvA  = pathA + ".drv"
	drvB  = store.Dir + "/00000000000000000000000000000000-b.drv"
)

func TestOutputs(t *testing.T) {
	for _, test := range []struct {
		name    string
		drv     store.Path
		outputs []string
		want    string // empty: refused
	}{
		{"all", drvA, nil, drvA + "!*"},
		{"one", drvA, []string{"out"}, drvA + "!out"},
		{"sorted, once each", drvA, []string{"out", "dev", "out"}, drvA + "!dev,out"},
		{"not a derivation", pathA, []string{"out"}, ""},
		{"empty name", drvA, []string{""}, ""},
		{"list in a name", drvA, []string{"dev,out"}, ""},
		{"the word for all", drvA, []string{"*"}, ""},
		{"separator", drvA, []string{"out!x"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := Outputs(test.drv, test.outputs...)
			if (err == nil) != (test.want != "") || err == nil && d.String() != test.want {
				t.Errorf("Outputs() = %v, %v, want %q", d, err, test.want)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	for _, test := range []struct {
		name    string
		targets []DerivedPath
		want    []DerivedPath
	}{
		{"none", nil, nil},
		{"same twice", []DerivedPath{Opaque(pathA), Opaque(pathA)}, []DerivedPath{Opaque(pathA)}},
		{"sorted", []DerivedPath{outputs(t, drvB), Opaque(pathA)}, []DerivedPath{Opaque(pathA), outputs(t, drvB)}},
		{
			"outputs of one derivation", []DerivedPath{outputs(t, drvA, "out"), outputs(t, drvA, "dev")},
			[]DerivedPath{outputs(t, drvA, "dev", "out")},
		},
		{"all wins", []DerivedPath{outputs(t, drvA, "out"), outputs(t, drvA)}, []DerivedPath{outputs(t, drvA)}},
		{
			"a derivation and its outputs", []DerivedPath{outputs(t, drvA), Opaque(drvA)},
			[]DerivedPath{Opaque(drvA), outputs(t, drvA)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := merge(test.targets); !slices.Equal(got, test.want) {
				t.Errorf("merge(%v) = %v, want %v", test.targets, got, test.want)
			}
		})
	}
}
