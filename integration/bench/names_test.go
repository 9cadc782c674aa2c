package main

import (
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
)

// Images are stored by their canonical names alone, and the stock registry has no others.
func TestNamesAreCanonical(t *testing.T) {
	for _, name := range append(demoImages(), pulledImages()...) {
		if canonical := names.Canonical(name, "", 1000); canonical != name {
			t.Errorf("%s is stored as %s", name, canonical)
		}
	}
}
