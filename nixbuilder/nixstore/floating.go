package nixstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Settle returns packages with the store paths that only building tells. Packages that float are
// built, unless what was built before is still there. All that comes after finds them like any
// others. The error is of kind Denied if they float and there is no Nix store.
func (s *Store) Settle(ctx context.Context, wanted Wanted) ([]Package, error) {
	var floating []Package
	for _, p := range wanted.Packages {
		if p.floats() {
			floating = append(floating, p)
		}
	}
	if len(floating) == 0 {
		return wanted.Packages, nil
	}
	paths, known, err := s.recall(ctx, floating)
	if err == nil && !known {
		paths, err = s.buildFloating(ctx, wanted, floating)
	}
	if err != nil {
		return nil, err
	}
	return at(wanted.Packages, paths), nil
}

// Recall returns packages with the store paths that an earlier build told and that are still there.
// The others float as before.
func (s *Store) Recall(ctx context.Context, packages []Package) ([]Package, error) {
	recalled := slices.Clone(packages)
	for i, p := range packages {
		if !p.floats() {
			continue
		}
		paths, known, err := s.recall(ctx, []Package{p})
		if err != nil {
			return nil, err
		}
		if known {
			recalled[i] = at([]Package{p}, paths)[0]
		}
	}
	return recalled, nil
}

// recall returns the paths of outputs that float, by key, if they were all built before and are
// still there.
func (s *Store) recall(
	ctx context.Context, floating []Package,
) (paths map[string]store.Path, known bool, err error) {
	var keys []string
	for _, p := range floating {
		for _, output := range p.Install {
			keys = append(keys, p.outputKey(output))
		}
	}
	if paths, err = s.floating.GetAll(ctx, keys); err != nil {
		return nil, false, err
	}
	conn, absent, err := s.openRooted(ctx, slices.Collect(maps.Values(paths)))
	if err != nil {
		return nil, false, err
	}
	s.daemons.Put(conn)
	return paths, len(paths) == len(keys) && len(absent) == 0, nil
}

// buildFloating builds packages that float, within the limits of what is built for images, and
// returns the paths of their outputs, by key.
func (s *Store) buildFloating(
	ctx context.Context, wanted Wanted, floating []Package,
) (map[string]store.Path, error) {
	if !s.options.Builds {
		return nil, unbuilt(floating[0].Name, s.newBuildLog(), AsItArrives)
	}
	release, err := acquire(ctx, s.building, wanted)
	if err != nil {
		return nil, err
	}
	defer release()
	s.consultShare(ctx)
	conn, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.daemons.Put(conn)
	targets, err := s.derivations(ctx, conn, wanted, floating)
	if err != nil {
		return nil, err
	}
	results, err := s.make(ctx, conn, targets, s.newBuildLog())
	if err != nil {
		return nil, err
	}
	paths := make(map[string]store.Path)
	for i, p := range floating { // the first targets are theirs
		for _, output := range p.Install {
			path, ok := results[i].Outputs[output]
			if !ok {
				return nil, fmt.Errorf("building %s: Nix does not say what its output %s is", p.Derivation, output)
			}
			paths[p.outputKey(output)] = path
		}
	}
	if err := s.floating.PutAll(ctx, paths); err != nil {
		return nil, fmt.Errorf("keeping what was built: %w", err)
	}
	return paths, nil
}

// FloatsWithoutStore is what clients are told of a package that floats where there is no Nix store.
func FloatsWithoutStore(packages []Package, err error) error {
	i := slices.IndexFunc(packages, Package.floats)
	if i < 0 || !errors.Is(err, ErrNoStore) {
		return err
	}
	return status.Errorf(
		status.Denied,
		"%s is content-addressed, or made of what is, and this registry has no Nix store to build it in",
		packages[i].Name,
	)
}
