package nixbuilder

import (
	"context"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A Sweep of records removes those that no image has any use for. All are hints, but for the commits
// and variants that clients may choose by the tags of revisions.
type Sweep struct {
	// Revisions are those that images are of. Pinned are these, and those of images that were removed
	// and can be built again.
	Revisions, Pinned map[string]struct{}
	// Stored tells whether the registry has a blob. It is called for several at a time.
	Stored func(context.Context, digest.Digest) (bool, error)
	// Recent is when a record must have been written at the latest that is found out anew at little
	// cost, and Old any other one.
	Recent, Old time.Time
}

// Run returns how many records it has removed, by kind, also with an error.
func (s Sweep) Run(ctx context.Context, state records.Dated) (removed map[string]int, err error) {
	commits, variants := make(map[string]struct{}), make(map[string]struct{})
	for revision := range s.Pinned {
		commit, variant, _ := strings.Cut(revision, "-")
		commits[commit], variants[variant] = struct{}{}, struct{}{}
	}
	removed = make(map[string]int)
	for kind, sweep := range map[string]sweeper{
		packagesKind: records.Sweep[resultRecord]{
			Before: s.Recent,
			Gone:   func(_ context.Context, r resultRecord) (bool, error) { return !has(s.Revisions, r.Revision), nil },
			Kind:   packagesKind,
		},
		layersKind: records.Sweep[image.Blob]{
			Before: s.Recent,
			Gone:   func(ctx context.Context, blob image.Blob) (bool, error) { return s.lacks(ctx, blob) },
			Kind:   layersKind,
		},
		imagesKind: records.Sweep[[]image.Layer]{
			Before: s.Old, // while an image can be built again, it is grouped as it was
			Gone:   s.lacksAny,
			Kind:   imagesKind,
		},
		seenKind: records.Sweep[sighting]{
			Before: s.Old,
			Gone:   func(_ context.Context, seen sighting) (bool, error) { return !has(commits, seen.Commit), nil },
			Kind:   seenKind,
		},
		variantsKind: records.Sweep[source.Variant]{
			Before: s.Old,
			Gone:   func(_ context.Context, v source.Variant) (bool, error) { return !has(variants, v.ID()), nil },
			Kind:   variantsKind,
		},
		// These do not say which revisions they are of use for. Nix or a binary cache is asked again.
		"floating": records.Sweep[store.Path]{Before: s.Old, Gone: always[store.Path], Kind: "floating"},
		"listings": records.Sweep[[]byte]{Before: s.Old, Gone: always[[]byte], Kind: "listings"},
	} {
		if removed[kind], err = sweep.Run(ctx, state); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

type sweeper interface {
	Run(ctx context.Context, state records.Dated) (removed int, err error)
}

func has(set map[string]struct{}, name string) bool {
	_, ok := set[name]
	return ok
}

func always[V any](context.Context, V) (bool, error) { return true, nil }

func (s Sweep) lacks(ctx context.Context, blob image.Blob) (bool, error) {
	stored, err := s.Stored(ctx, blob.Digest)
	return !stored, err
}

func (s Sweep) lacksAny(ctx context.Context, layers []image.Layer) (bool, error) {
	for _, layer := range layers {
		if lacks, err := s.lacks(ctx, layer.Blob); lacks || err != nil {
			return lacks, err
		}
	}
	return false, nil
}
