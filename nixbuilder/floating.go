package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// settle returns an order's packages with the store paths that only building tells: of packages
// that *float*, as they are content-addressed, or made of what is. These are built, unless what was
// built before is still there. All that comes after finds them like any others.
func (b *Builder) settle(ctx context.Context, o order) (packages, error) {
	floating := o.packages.floating()
	if len(floating) == 0 {
		return o.packages, nil
	}
	paths, known, err := b.recall(ctx, floating)
	if err == nil && !known {
		paths, err = b.buildFloating(ctx, o, floating)
	}
	if b.caches != nil && errors.Is(err, errNoStore) && ctx.Err() == nil {
		return nil, status.Errorf(
			status.Denied,
			"%s is content-addressed, or made of what is, and this registry has no Nix store to build it in",
			floating[0].name,
		)
	}
	return o.packages.at(paths), err
}

// recall returns the paths of outputs that float, by key, if they were all built before and are
// still there.
func (b *Builder) recall(ctx context.Context, floating packages) (paths map[string]store.Path, known bool, err error) {
	var keys []string
	for _, c := range floating {
		for _, output := range c.OutputsToInstall {
			keys = append(keys, c.outputKey(output))
		}
	}
	paths, err = b.floating.GetAll(ctx, keys)
	if err != nil {
		return nil, false, err
	}
	conn, absent, err := b.hold(ctx, slices.Collect(maps.Values(paths)))
	if err != nil {
		return nil, false, err
	}
	b.daemons.Put(conn)
	return paths, len(paths) == len(keys) && len(absent) == 0, nil
}

// buildFloating builds packages of an order that float, within the limits of what is built for
// images, and returns the paths of their outputs, by key.
func (b *Builder) buildFloating(ctx context.Context, o order, floating packages) (map[string]store.Path, error) {
	if !b.options.Builds {
		return nil, unbuilt(floating[0].name, newRemarks(), asItArrives)
	}
	leave, err := b.enter(ctx, o)
	if err != nil {
		return nil, err
	}
	defer leave()
	conn, err := b.daemons.Get(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoStore, err)
	}
	defer b.daemons.Put(conn)
	targets, err := b.derivations(ctx, conn, floating, o.pinned, o.system)
	if err != nil {
		return nil, err
	}
	results, err := b.make(ctx, conn, targets, newRemarks())
	if err != nil {
		return nil, err
	}
	paths := make(map[string]store.Path)
	for i, c := range floating { // the first targets are theirs
		for _, output := range c.OutputsToInstall {
			path, ok := results[i].Outputs[output]
			if !ok {
				return nil, fmt.Errorf("building %s: Nix does not say what its output %s is", c.Derivation, output)
			}
			paths[c.outputKey(output)] = path
		}
	}
	if err := b.floating.PutAll(ctx, paths); err != nil {
		return nil, fmt.Errorf("keeping what was built: %w", err)
	}
	return paths, nil
}

// outputKey is that of an output that floats.
func (c chosen) outputKey(output string) string { return records.Key(string(c.Derivation), output) }

// floating are those that float.
func (p packages) floating() (floating packages) {
	for _, c := range p {
		if c.Floats() {
			floating = append(floating, c)
		}
	}
	return floating
}

// at returns the packages with paths of outputs that float, by key.
func (p packages) at(paths map[string]store.Path) packages {
	settled := slices.Clone(p)
	for i, c := range settled {
		outputs := maps.Clone(c.Outputs) // others have it, too
		for output := range outputs {
			if path, ok := paths[c.outputKey(output)]; ok {
				outputs[output] = path
			}
		}
		settled[i].Outputs = outputs
	}
	return settled
}
