package layering

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// DefaultBudget is how many layers an image has at most for its store paths. It is Nixery's number: clients stop at some
// 125 layers, and what users build on top of an image needs a few.
const DefaultBudget = 94

// Sizes are NAR bytes. docs/layering.md has what other values gave.
const (
	// ownLayerSize is the size from which a path has a layer to itself.
	ownLayerSize = 2 << 20
	// maxRest is how large the layers of what is over the budget may be together before fewer paths have one to themselves.
	maxRest = 16_000_000
	// restPart is the part of the budget that layers of what is over it take, at least one.
	restPart = 30
	// ownTenths is the part of the budget, in tenths, that such paths may then take.
	ownTenths = 6
)

// Options limit the layers of an image. The zero value means the defaults.
type Options struct {
	Budget int // most layers of an image; 0: DefaultBudget
}

// Group splits a closure into at most opts.Budget layers, largest first; equal sizes order by the first path. A layer's
// paths are sorted. Each path of the closure is in exactly one layer.
//
// Paths of 2 MiB and more have a layer to themselves, the others share one with all that have the same head; a key that
// heads does not know is its own head. What is over the budget, the smallest, goes into a few layers, by the names of the heads: an image with
// one package more makes one or two of them anew, not all.
//
// The closure may be in any order and is not changed. A path given twice, a negative size, a reference that leaves the
// closure and a negative budget are errors. The result depends on the closure, the heads of its keys and opts alone.
func Group(closure []store.PathInfo, heads Heads, opts Options) ([][]store.Path, error) {
	budget := cmp.Or(opts.Budget, DefaultBudget)
	if budget < 0 {
		return nil, fmt.Errorf("grouping a closure: a budget of %d layers", budget)
	}
	paths, err := members(closure)
	if err != nil {
		return nil, err
	}

	layers := split(paths, heads, ownLayerSize)
	if rest := sizeOf(over(layers, budget)); rest > maxRest {
		if size := sizeAt(paths, budget*ownTenths/10); size >= ownLayerSize {
			if fewer := split(paths, heads, size+1); sizeOf(over(fewer, budget)) < rest {
				layers = fewer
			}
		}
	}
	if rest := over(layers, budget); len(rest) > 0 {
		layers = append(layers[:len(layers)-len(rest)], gather(rest, restLayers(budget))...)
		slices.SortFunc(layers, largestFirst)
	}
	return pathsOf(layers), nil
}

// layer is a group of paths, sorted.
type layer struct {
	head  Key
	size  int64
	paths []store.Path
}

// restLayers is how many layers of a budget are for what is over it.
func restLayers(budget int) int { return 1 + budget/restPart }

// over is what can't have layers of its own within the budget; layers are largest first.
func over(layers []layer, budget int) []layer {
	if len(layers) <= budget {
		return nil
	}
	return layers[budget-restLayers(budget):]
}

func sizeOf(layers []layer) (size int64) {
	for _, l := range layers {
		size += l.size
	}
	return size
}

// gather puts layers together, into n or fewer. Where one goes depends on the name of its head alone.
func gather(layers []layer, n int) []layer {
	gathered := make([]layer, n)
	for _, l := range layers {
		hash := fnv.New32a()
		hash.Write([]byte(l.head))
		into := &gathered[hash.Sum32()%uint32(n)]
		into.size += l.size
		into.paths = append(into.paths, l.paths...)
	}
	for _, l := range gathered {
		slices.Sort(l.paths)
	}
	return slices.DeleteFunc(gathered, func(l layer) bool { return len(l.paths) == 0 })
}

func largestFirst(a, b layer) int {
	return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.paths[0], b.paths[0]))
}

// split gives paths of at least ownSize bytes a layer each and puts the others together by head, largest layer first.
func split(paths []member, heads Heads, ownSize int64) []layer {
	var layers []layer
	shared := make(map[Key]int) // head to index in layers
	for _, path := range paths {
		if path.NarSize >= ownSize {
			layers = append(layers, layer{path.key, path.NarSize, []store.Path{path.Path}})
			continue
		}
		head, ok := heads(path.key)
		if !ok {
			head = path.key
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

// sizeAt is the size of the path that n paths come before, largest first; 0 if there are no more than n.
func sizeAt(paths []member, n int) int64 {
	if len(paths) <= n {
		return 0
	}
	sizes := make([]int64, len(paths))
	for i, path := range paths {
		sizes[i] = path.NarSize
	}
	slices.Sort(sizes)
	return sizes[len(sizes)-1-n]
}

func pathsOf(layers []layer) [][]store.Path {
	paths := make([][]store.Path, len(layers))
	for i, l := range layers {
		paths[i] = l.paths
	}
	return paths
}
