package layering

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// maxSize bounds the size of a path, in bytes, so that thousands of them can be summed up.
const maxSize = 1 << 44

// member is a path of a closure.
type member struct {
	store.PathInfo
	key        Key
	references []int // indexes of other members
}

// members checks a closure and returns its paths ordered by key, then by path: so nothing depends
// on the order in which the closure was given, and little on the hashes.
func members(closure []store.PathInfo) ([]member, error) {
	paths := make([]member, len(closure))
	for i, info := range closure {
		paths[i] = member{PathInfo: info, key: KeyOf(info.Path)}
	}
	slices.SortFunc(paths, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.Path, b.Path))
	})
	index := make(map[store.Path]int, len(paths))
	for i, p := range paths {
		if _, ok := index[p.Path]; ok {
			return nil, fmt.Errorf("grouping a closure: %s is in it twice", p.Path)
		}
		if p.NarSize < 0 || p.NarSize > maxSize {
			return nil, fmt.Errorf("grouping a closure: %s has a size of %d", p.Path, p.NarSize)
		}
		index[p.Path] = i
	}
	for i := range paths {
		p := &paths[i]
		for _, reference := range p.References {
			r, ok := index[reference]
			if !ok {
				return nil, fmt.Errorf("grouping a closure: %s refers to %s, which is not in it", p.Path, reference)
			}
			if r != i {
				p.references = append(p.references, r)
			}
		}
	}
	return paths, nil
}
