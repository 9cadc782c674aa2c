package nixstore

import (
	"maps"
	"slices"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

// TestAt settles packages, two of which are outputs of one derivation. What others have of them
// stays as it is.
func TestAt(t *testing.T) {
	outputs := map[string]store.Path{"out": "", "dev": ""}
	one := Package{Name: "a", Derivation: storetest.Path("a.drv"), Outputs: outputs, Install: []string{"out"}}
	dev := Package{Name: "a.dev", Derivation: storetest.Path("a.drv"), Outputs: outputs, Install: []string{"dev"}}
	known := Package{
		Name: "b", Derivation: storetest.Path("b.drv"), Outputs: map[string]store.Path{"out": storetest.Path("b"), "dev": ""},
		Install: []string{"out"},
	}
	if !one.floats() || !dev.floats() || known.floats() {
		t.Errorf("what floats: %t, %t, %t", one.floats(), dev.floats(), known.floats())
	}
	settled := at([]Package{one, known, dev}, map[string]store.Path{
		one.outputKey("out"): storetest.Path("a"), dev.outputKey("dev"): storetest.Path("a-dev"),
	})
	a := map[string]store.Path{"out": storetest.Path("a"), "dev": storetest.Path("a-dev")}
	for i, want := range []map[string]store.Path{a, {"out": storetest.Path("b"), "dev": ""}, a} {
		if got := settled[i].Outputs; !maps.Equal(got, want) {
			t.Errorf("%s has the outputs %v, want %v", settled[i].Name, got, want)
		}
	}
	if slices.ContainsFunc(settled, Package.floats) || outputs["out"] != "" || outputs["dev"] != "" {
		t.Errorf("some still float: %v; or others see it: %v", settled, outputs)
	}
}
