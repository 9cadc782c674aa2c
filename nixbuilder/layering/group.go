package layering

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// DefaultBudget is how many layers an image has at most for its store paths. It is Nixery's number:
// clients stop at some 125 layers, and what users build on top of an image needs a few.
const DefaultBudget = 94

// Sizes are NAR bytes. docs/layering.md has what other values gave.
const (
	// ownLayerSize is the size from which a path has a layer to itself.
	ownLayerSize = 2 << 20
	// maxRest is how many bytes may be in groups without a layer of their own. If there are more,
	// fewer paths get a layer to themselves.
	maxRest = 32_000_000
	// ownTenths is the part of the budget, in tenths, that layers of one path may take then.
	ownTenths = 6
	// Groups that are too small for any other layer share 1 + budget/restPart layers.
	restPart = 30
	// A patron has a layer if its groups have, together, a patronPart-th of the size from which a
	// group stays alone.
	patronPart = 4
)

// Options limit the layers of an image. The zero value means the defaults.
type Options struct {
	Budget int // most layers of an image; 0: DefaultBudget
}

// Group splits a closure into at most opts.Budget layers, largest first; equal sizes order by the
// first path. A layer's paths are sorted. Each path of the closure is in exactly one layer.
//
// Paths of 2 MiB and more have a layer to themselves. The others share one with all that have the
// same head; a key that heads does not know is its own head. If these groups are more than the
// budget, small ones go together. Those of one patron share a layer if they are large enough for
// one. The others share four layers (with the default budget), and the patron's name says which.
//
// For example, an image of 300 groups has 94 layers. 80 groups stay alone. Of the 220 smaller ones,
// 40 have the patron git and share a layer, as do those of nine other patrons. All that is left is
// in the last four layers.
//
// The size from which a group stays alone goes up in steps until the budget holds. So a package
// that is added seldom changes that size: an image with one package more has, mostly, the layer of
// that package's patron anew.
//
// The closure may be in any order and is not changed. A path given twice, a negative size, a
// reference that leaves the closure and a negative budget are errors. The result depends on the
// closure, the heads of its keys and opts alone.
func Group(closure []store.PathInfo, heads Heads, opts Options) ([][]store.Path, error) {
	budget := cmp.Or(opts.Budget, DefaultBudget)
	if budget < 0 {
		return nil, fmt.Errorf("grouping a closure: a budget of %d layers", budget)
	}
	paths, err := members(closure)
	if err != nil {
		return nil, err
	}

	layers, rest := within(budget, split(paths, heads, ownLayerSize), heads)
	if rest > maxRest {
		size := int64(ownLayerSize)
		for count(paths, size) > budget*ownTenths/10 {
			size *= 2
		}
		if fewer, left := within(budget, split(paths, heads, size), heads); left < rest {
			layers = fewer
		}
	}
	slices.SortFunc(layers, largestFirst)
	return pathsOf(layers), nil
}

// layer is a group of paths, sorted.
type layer struct {
	head  Key
	size  int64
	paths []store.Path
}

// add makes other part of the layer, which is then not sorted.
func (l *layer) add(other layer) {
	l.size += other.size
	l.paths = append(l.paths, other.paths...)
}

// within puts the smallest groups together until there are no more than the budget. rest is the
// size of those that have no layer of their own any more. groups must be ordered, the largest
// first.
func within(budget int, groups []layer, heads Heads) (layers []layer, rest int64) {
	layers = groups
	// In steps: with the exact size, every package that is added would move some group over the
	// limit.
	for alone := int64(1); len(layers) > budget; alone += 1 + alone/5 {
		if groups[budget].size < alone { // else too many stay alone
			layers, rest = gather(groups, heads, alone, 1+budget/restPart)
		}
	}
	for _, l := range layers {
		slices.Sort(l.paths)
	}
	return layers, rest
}

// gather puts groups smaller than alone together by patron. Patrons that are still too small share
// n layers or fewer; the name of the patron says which. A group without a patron goes there, too,
// by the name of its head.
func gather(groups []layer, heads Heads, alone int64, n int) (layers []layer, rest int64) {
	patrons := make(map[Key]*layer)
	left := make([]layer, n)
	leave := func(name Key, l layer) {
		hash := fnv.New32a()
		hash.Write([]byte(name))
		left[hash.Sum32()%uint32(n)].add(l)
	}
	for _, group := range groups {
		if group.size >= alone {
			layers = append(layers, group)
			continue
		}
		rest += group.size
		entry, _ := heads(group.head)
		if entry.Head != group.head { // a path that was alone for its size
			entry, _ = heads(entry.Head)
		}
		switch patron := entry.Patron; {
		case patron == "":
			leave(group.head, group)
		case patrons[patron] == nil:
			patrons[patron] = &layer{size: group.size, paths: slices.Clone(group.paths)}
		default:
			patrons[patron].add(group)
		}
	}
	for patron, l := range patrons {
		if l.size >= alone/patronPart {
			layers = append(layers, *l)
		} else {
			leave(patron, *l)
		}
	}
	for _, l := range left {
		if len(l.paths) > 0 {
			layers = append(layers, l)
		}
	}
	return layers, rest
}

// count returns how many paths have at least that size.
func count(paths []member, size int64) (n int) {
	for _, path := range paths {
		if path.NarSize >= size {
			n++
		}
	}
	return n
}

func largestFirst(a, b layer) int {
	return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.paths[0], b.paths[0]))
}

// split gives paths of at least ownSize bytes a layer each and puts the others together by head,
// largest layer first.
func split(paths []member, heads Heads, ownSize int64) []layer {
	var layers []layer
	shared := make(map[Key]int) // head to index in layers
	for _, path := range paths {
		if path.NarSize >= ownSize {
			layers = append(layers, layer{path.key, path.NarSize, []store.Path{path.Path}})
			continue
		}
		head := path.key
		if entry, ok := heads(path.key); ok {
			head = entry.Head
		}
		i, ok := shared[head]
		if !ok {
			i = len(layers)
			shared[head] = i
			layers = append(layers, layer{head: head})
		}
		layers[i].size += path.NarSize
		layers[i].paths = append(layers[i].paths, path.Path)
	}
	for _, l := range layers {
		slices.Sort(l.paths)
	}
	slices.SortFunc(layers, largestFirst)
	return layers
}

func pathsOf(layers []layer) [][]store.Path {
	paths := make([][]store.Path, len(layers))
	for i, l := range layers {
		paths[i] = l.paths
	}
	return paths
}
