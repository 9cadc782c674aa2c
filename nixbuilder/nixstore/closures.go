package nixstore

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// How many bytes are in memory of closures of packages' outputs, and of paths with their
// references. A path takes some 500. Closures share paths, but each counts all of its own, as it
// may be the last one that has them.
const (
	closuresKept = 64 << 20
	pathsKept    = 12 << 20
)

// settled is how old a registration must be to be told from another one, as Nix counts seconds.
const settled = 2 * time.Second

// closures remembers what outputs of packages refer to, for as long as they stay registered in the
// Nix store. Asking the store for each path takes a quarter of the time of an image whose layers
// are all there. It is safe for concurrent use.
type closures struct {
	roots *weighted.Cache[store.Path, rootClosure]
	paths *weighted.Cache[store.Path, store.PathInfo] // whose texts closures share
}

// A rootClosure is a path's closure, found while the path had a registration.
type rootClosure struct {
	daemon.Registration
	closure []store.PathInfo
}

// registrations are the questions of a *daemon.Conn that closures ask.
type registrations interface {
	Registrations(ctx context.Context, paths []store.Path) ([]daemon.Registration, error)
	Closure(ctx context.Context, roots []store.Path) ([]store.PathInfo, error)
}

func newClosures() *closures {
	return &closures{
		roots: weighted.New[store.Path, rootClosure](closuresKept),
		paths: weighted.New[store.Path, store.PathInfo](pathsKept),
	}
}

// weight is how many bytes paths and their references take in memory.
func weight(infos ...store.PathInfo) (bytes int) {
	const info, path = 48, 16 // their fields
	for _, i := range infos {
		bytes += info + len(i.Path)
		for _, reference := range i.References {
			bytes += path + len(reference)
		}
	}
	return bytes
}

// of returns roots with all that they refer to, sorted by path. The caller keeps roots from being
// collected. It fails with a *daemon.Error if one of them is not in the store.
func (c *closures) of(ctx context.Context, conn registrations, roots []store.Path) ([]store.PathInfo, error) {
	registered, err := conn.Registrations(ctx, roots)
	if err != nil {
		return nil, err
	}
	found := make(map[store.Path]store.PathInfo)
	var unknown []daemon.Registration
	for _, root := range registered {
		known, ok := c.roots.Get(root.Path)
		if !ok || known.NarHash != root.NarHash || !known.Since.Equal(root.Since) {
			unknown = append(unknown, root)
			continue
		}
		for _, info := range known.closure {
			found[info.Path] = info
		}
	}
	if len(unknown) > 0 {
		if err := c.ask(ctx, conn, unknown, found); err != nil {
			return nil, err
		}
	}
	byPath := func(a, b store.PathInfo) int { return cmp.Compare(a.Path, b.Path) }
	return slices.SortedFunc(maps.Values(found), byPath), nil
}

// ask adds the closures of roots to found, and remembers them.
func (c *closures) ask(
	ctx context.Context, conn registrations, roots []daemon.Registration, found map[store.Path]store.PathInfo,
) error {
	paths := make([]store.Path, len(roots))
	for i, root := range roots {
		paths[i] = root.Path
	}
	told, err := conn.Closure(ctx, paths)
	if err != nil {
		return err
	}
	for _, info := range told {
		shared, ok := c.paths.Get(info.Path)
		if !ok || shared.NarSize != info.NarSize || !slices.Equal(shared.References, info.References) {
			shared = info
			c.paths.Add(info.Path, shared, weight(shared))
		}
		found[info.Path] = shared
	}
	for _, root := range roots {
		if time.Since(root.Since) > settled {
			closure := store.Reachable(found, []store.Path{root.Path})
			c.roots.Add(root.Path, rootClosure{root, closure}, weight(closure...))
		}
	}
	return nil
}
