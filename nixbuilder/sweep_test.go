package nixbuilder

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Records go that no image has any use for: those of revisions that no image is of, and of layers that
// the registry has lost.
func TestSweep(t *testing.T) {
	kept, gone := digest.FromString("kept"), digest.FromString("gone")
	variant, another := source.Variant{"submodules=true"}, source.Variant{"importfromderivation=true"}
	state := recordstest.NewMemory()
	put := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	packages := records.NewTable[resultRecord](state, packagesKind, 0)
	oldPackages := records.NewTable[eval.Result](state, packagesKind, 0)
	layers := records.NewTable[image.Blob](state, layersKind, 0)
	images := records.NewTable[[]image.Layer](state, imagesKind, 0)
	variants := records.NewTable[source.Variant](state, variantsKind, 0)
	seen := records.NewTable[sighting](state, seenKind, 0)
	keys := map[bool]string{true: records.Key("stays"), false: records.Key("goes")}
	put(packages.Put(ctx, keys[true], resultRecord{Revision: "c1-" + variant.ID()}))
	put(packages.Put(ctx, keys[false], resultRecord{Revision: "c1-" + another.ID()}))
	put(oldPackages.Put(ctx, records.Key("of nobody knows which"), eval.Result{}))
	put(layers.Put(ctx, keys[true], image.Blob{Digest: kept}))
	put(layers.Put(ctx, keys[false], image.Blob{Digest: gone}))
	put(images.Put(ctx, keys[true], []image.Layer{{Blob: image.Blob{Digest: kept}}}))
	put(images.Put(ctx, keys[false], []image.Layer{{Blob: image.Blob{Digest: kept}}, {Blob: image.Blob{Digest: gone}}}))
	put(variants.Put(ctx, variant.ID(), variant))
	put(variants.Put(ctx, another.ID(), another))
	put(seen.Put(ctx, keys[true], sighting{Commit: "c1"}))
	put(seen.Put(ctx, keys[false], sighting{Commit: "c2"}))
	put(packages.Put(ctx, records.Key("of what is pinned"), resultRecord{Revision: "c3"}))
	put(seen.Put(ctx, records.Key("pinned"), sighting{Commit: "c3"}))
	put(records.NewTable[store.Path](state, "floating", 0).Put(ctx, keys[false], "p"))
	put(records.NewTable[[]byte](state, "listings", 0).Put(ctx, keys[false], nil))

	sweep := Sweep{
		Revisions: map[string]struct{}{"c1-" + variant.ID(): {}},
		Pinned:    map[string]struct{}{"c1-" + variant.ID(): {}, "c3": {}},
		Stored:    func(_ context.Context, blob digest.Digest) (bool, error) { return blob == kept, nil },
	}
	if removed, err := sweep.Run(ctx, state); err != nil || sum(removed) != 0 {
		t.Errorf("of young records, %v were removed, %v", removed, err)
	}
	sweep.Recent, sweep.Old = time.Now(), time.Now()
	removed, err := sweep.Run(ctx, state)
	want := map[string]int{
		"packages": 3, "layers": 1, "images": 1, "variants": 1, "seen": 1, "floating": 1, "listings": 1,
	}
	if err != nil || !maps.Equal(removed, want) {
		t.Errorf("there were removed %v, %v, want %v", removed, err, want)
	}
	for kind, get := range map[string]func() (bool, error){
		"packages": func() (bool, error) { _, ok, err := packages.Fresh(ctx, keys[true]); return ok, err },
		"layers":   func() (bool, error) { _, ok, err := layers.Fresh(ctx, keys[true]); return ok, err },
		"images":   func() (bool, error) { _, ok, err := images.Fresh(ctx, keys[true]); return ok, err },
		"variants": func() (bool, error) { _, ok, err := variants.Fresh(ctx, variant.ID()); return ok, err },
		"seen":     func() (bool, error) { _, ok, err := seen.Fresh(ctx, keys[true]); return ok, err },
	} {
		if ok, err := get(); !ok || err != nil {
			t.Errorf("the record in %s that is of use is there: %t, %v", kind, ok, err)
		}
	}
}

func sum(counts map[string]int) (all int) {
	for _, n := range counts {
		all += n
	}
	return all
}
