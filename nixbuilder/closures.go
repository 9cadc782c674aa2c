package nixbuilder

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// How many outputs of packages are kept in memory with their closures, 48 bytes for each path in them, and how many paths with what they refer to, of
// some 500 bytes.
const (
	closuresKept = 500
	pathsKept    = 20_000
)

// settled is how old a registration must be to be told from another one, as Nix counts seconds.
const settled = 2 * time.Second

// closures remembers what outputs of packages refer to, for as long as they stay registered in the Nix store. To ask the store for each path takes a
// quarter of the time that an image takes whose layers are all there. It is safe for concurrent use.
type closures struct {
	roots *lru.Cache[store.Path, rootClosure]
	paths *lru.Cache[store.Path, store.PathInfo] // whose texts closures share
}

// A rootClosure is what was found while a path had a registration.
type rootClosure struct {
	daemon.Registration
	closure []store.PathInfo
}

// registrations is what a *daemon.Conn tells.
type registrations interface {
	Registrations(ctx context.Context, paths []store.Path) ([]daemon.Registration, error)
	Closure(ctx context.Context, roots []store.Path) ([]store.PathInfo, error)
}

func newClosures() *closures {
	roots, err := lru.New[store.Path, rootClosure](closuresKept)
	if err != nil {
		panic(err) // only a constant below 1
	}
	paths, err := lru.New[store.Path, store.PathInfo](pathsKept)
	if err != nil {
		panic(err)
	}
	return &closures{roots: roots, paths: paths}
}

// of returns roots with all that they refer to, sorted by path. The caller keeps roots from being collected. It fails with a *daemon.Error if one of
// them is not in the store.
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
func (c *closures) ask(ctx context.Context, conn registrations, roots []daemon.Registration, found map[store.Path]store.PathInfo) error {
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
			c.paths.Add(info.Path, shared)
		}
		found[info.Path] = shared
	}
	for _, root := range roots {
		if time.Since(root.Since) > settled {
			c.roots.Add(root.Path, rootClosure{root, reachable(found, []store.Path{root.Path})})
		}
	}
	return nil
}
