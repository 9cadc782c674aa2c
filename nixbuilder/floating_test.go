package nixbuilder

import (
	"maps"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// TestAt settles packages, two of which are outputs of one derivation. What others have of them
// stays as it is.
func TestAt(t *testing.T) {
	outputs := map[string]store.Path{"out": "", "dev": ""}
	one := chosen{
		name:    "a",
		Package: eval.Package{Derivation: path("a.drv"), Outputs: outputs, OutputsToInstall: []string{"out"}},
	}
	dev := chosen{
		name:    "a.dev",
		Package: eval.Package{Derivation: path("a.drv"), Outputs: outputs, OutputsToInstall: []string{"dev"}},
	}
	known := chosen{
		name: "b",
		Package: eval.Package{
			Derivation:       path("b.drv"),
			Outputs:          map[string]store.Path{"out": path("b"), "dev": ""},
			OutputsToInstall: []string{"out"},
		},
	}
	given := packages{one, known, dev}
	if floating := given.floating(); len(floating) != 2 || floating[0].name != "a" || floating[1].name != "a.dev" {
		t.Errorf("what floats is %+v", floating)
	}
	settled := given.at(map[string]store.Path{one.outputKey("out"): path("a"), dev.outputKey("dev"): path("a-dev")})
	for i, want := range []map[string]store.Path{{"out": path("a"), "dev": path("a-dev")}, {"out": path("b"), "dev": ""}, {"out": path("a"), "dev": path("a-dev")}} {
		if got := settled[i].Outputs; !maps.Equal(got, want) {
			t.Errorf("%s has the outputs %v, want %v", settled[i].name, got, want)
		}
	}
	if len(settled.floating()) > 0 || outputs["out"] != "" || outputs["dev"] != "" {
		t.Errorf("some still float: %v; or others see it: %v", settled.floating(), outputs)
	}
}
