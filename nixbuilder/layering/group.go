package layering

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"slices"
	"sort"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// DefaultBudget is how many layers an image has at most for its store paths. It is Nixery's number:
// clients stop at some 125 layers, and what users build on top of an image needs a few.
const DefaultBudget = 94

// Sizes are NAR bytes. docs/layering.md has what other values gave.
const (
	// ownLayerSize is the size from which a path has a layer to itself.
	ownLayerSize = 2 << 20
	// Groups that are too small for any other layer share 1 + budget/restPart layers.
	restPart = 30
	// A patron has a layer if its groups have, together, a patronPart-th of the size from which a
	// group stays alone.
	patronPart = 4
	// ranksPerSize is how many ranks groups of about one size have. Each has a quarter of those that
	// the ranks below have left, and the last has the others.
	ranksPerSize = 16
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
// budget, small ones go together, no more than need to. Those of one patron share a layer if they
// are large enough for one. The others share four layers (with the default budget), and the
// patron's name says which.
//
// For example, an image of 300 groups has 94 layers. 80 groups stay alone. Of the 220 smaller ones,
// 40 have the patron git and share a layer, as do those of nine other patrons. All that is left is
// in the last four layers.
//
// What goes together is decided by rank, which goes up with the size, by a fifth at a time. Of
// groups of about one size, a quarter has the lowest rank, a quarter of the others the next one, and
// so on: their names say which. The rank from which a group stays alone goes up until the budget
// holds. So a package that is added seldom changes that rank: an image with one package more has,
// mostly, the layer of that package's patron anew.
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

	layers := split(paths, heads)
	if len(layers) > budget {
		layers = within(budget, layers, heads)
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

// within puts groups of the lowest ranks together until there are no more layers than the budget.
// groups are more than that, and the largest is the first.
func within(budget int, groups []layer, heads Heads) (layers []layer) {
	steps := newSizes()
	fits := func(alone int) bool {
		layers = gather(groups, heads, func(size int64, name Key) bool { return steps.rank(size, name) >= alone },
			1+budget/restPart)
		return len(layers) <= budget
	}
	step := steps.step(groups[budget].size) // if all that are larger stay alone, one is too many
	for !fits((step + 1) * ranksPerSize) {
		step++
	}
	lowest := step*ranksPerSize + 1
	fits(lowest + sort.Search(ranksPerSize-1, func(n int) bool { return fits(lowest + n) }))
	for _, l := range layers {
		slices.Sort(l.paths)
	}
	return layers
}

// sizes are the sizes at which ranks begin, each a fifth larger than the one before.
type sizes []int64

func newSizes() (s sizes) {
	for size := int64(1); size < 1<<60; size += 1 + size/5 {
		s = append(s, size)
	}
	return s
}

// step returns the number of steps that a size has reached.
func (s sizes) step(size int64) int {
	n, reached := slices.BinarySearch(s, size)
	if reached {
		n++
	}
	return n
}

// rank orders groups, or patrons: by size, in steps, and then by name.
//
// With the exact size, every package that is added would move some group over the limit. Without
// the names, all groups of about one size would go together if one has to.
func (s sizes) rank(size int64, name Key) int {
	rank := s.step(size) * ranksPerSize
	sum, limit := uint64(crc32.ChecksumIEEE([]byte(name))), uint64(1)<<32
	for range ranksPerSize - 1 {
		if limit -= limit / 4; sum >= limit {
			break
		}
		rank++
	}
	return rank
}

// gather puts groups that do not stay alone together by patron. Patrons that are too small for a
// layer share n layers or fewer; the name of the patron says which. A group without a patron goes
// there, too, by the name of its head.
func gather(groups []layer, heads Heads, alone func(size int64, name Key) bool, n int) (layers []layer) {
	patrons := make(map[Key]*layer)
	left := make([]layer, n)
	leave := func(name Key, l layer) {
		hash := fnv.New32a()
		hash.Write([]byte(name))
		left[hash.Sum32()%uint32(n)].add(l)
	}
	for _, group := range groups {
		if alone(group.size, group.head) {
			layers = append(layers, group)
			continue
		}
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
		if alone(l.size*patronPart, patron) {
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
	return layers
}

func largestFirst(a, b layer) int {
	return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.paths[0], b.paths[0]))
}

// split gives paths of at least ownLayerSize bytes a layer each and puts the others together by
// head, largest layer first.
func split(paths []member, heads Heads) []layer {
	var layers []layer
	shared := make(map[Key]int) // head to index in layers
	for _, path := range paths {
		if path.NarSize >= ownLayerSize {
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
