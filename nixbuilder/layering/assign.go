package layering

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Heads looks a key up in the map of heads that the caller keeps. Assign and Group call it on their
// caller's goroutine.
type Heads func(Key) (entry Head, ok bool)

// Head is an entry of the map of heads: a small path named Key shares a layer with the small paths
// of the same Head. A key may be its own head.
type Head struct {
	Key, Head Key
	// Patron is for a key that is its own head. Where layers are scarce, its group shares one with
	// the groups of the same patron. Empty: it has none.
	Patron Key `json:",omitempty"`
}

// minTogether is the share of a path's dependents that its head must have too. A smaller one makes
// fewer and larger layers; docs/layering.md has what others gave.
const minTogether = 0.5

// weighed is how many dependents are counted at a time. Meanwhile, each path takes a bit for each
// of them.
const weighed = 1024

// Assign returns the heads of those paths of a closure whose keys are not known yet: dependents
// before dependencies, each key once. The caller adds them to its map. An entry that is there
// already stays, because layers were made by it.
//
// The dependents of a path are the paths that have it in their closure, the path itself included.
// The head of a path is chosen among the heads of the paths that refer to it: it is the one with
// the most dependents, if they are at least half as many as those of the path. Every closure that
// holds the head holds the path, so this is how often the two are together, as far as one closure
// can tell.
//
// A path is its own head if that one has too few dependents. Then it has the patron of that one. If
// nothing refers to a path, it is its own head and its own patron. So the patron of a path is,
// mostly, the package that first brought it.
//
// In the example of the package, htop has one dependent and libnl has two, htop and itself. That is
// half, so htop is the head of libnl. ncurses has three. Its best head is htop, with one of them,
// which is too few: ncurses is its own head, and its patron is htop.
//
// The closure may be in any order and is not changed. A path may refer to itself. Errors are a path
// given twice, a negative size, a reference that leaves the closure and a cycle of references; if
// all keys are known, none of these is looked for. The time is that of sorting the paths, plus one
// machine word for each reference and 64 unknown paths. The memory is proportional to the closure,
// so that a whole package set can be one.
func Assign(closure []store.PathInfo, known Heads) ([]Head, error) {
	if !slices.ContainsFunc(closure, func(info store.PathInfo) bool { _, ok := known(KeyOf(info.Path)); return !ok }) {
		return nil, nil
	}
	paths, err := members(closure)
	if err != nil {
		return nil, err
	}
	order, err := dependentsFirst(paths)
	if err != nil {
		return nil, err
	}
	bit := make([]int, len(paths)) // an unknown path's place in the sets; -1 for a known path
	unknown := 0
	for _, i := range order {
		bit[i] = -1
		if _, ok := known(paths[i].key); !ok {
			bit[i] = unknown
			unknown++
		}
	}
	var added []Head
	seen := make(map[Key]bool, unknown)
	weight := weights(paths, order, bit, unknown)
	candidate := make([]int, len(paths)) // the best head that a path's referrers offer, plus one
	patron := make([]Key, len(paths))    // of those that are their own heads
	for _, q := range order {
		head := q
		if bit[q] >= 0 {
			switch h := candidate[q] - 1; {
			case h < 0:
				patron[q] = paths[q].key
			case float64(weight[h]) >= minTogether*float64(weight[q]):
				head = h
			default:
				patron[q] = patron[h]
			}
			if key := paths[q].key; !seen[key] {
				seen[key] = true
				added = append(added, Head{key, paths[head].key, patron[q]})
			}
		}
		for _, r := range paths[q].references {
			if h := candidate[r] - 1; bit[q] >= 0 &&
				(h < 0 || weight[head] > weight[h] || weight[head] == weight[h] && head < h) {
				candidate[r] = head + 1
			}
		}
	}
	return added, nil
}

// weights counts, for each unknown path, the unknown paths that have it in their closure, itself
// included. Bit is an unknown path's number in the order, and -1 for a known one.
func weights(paths []member, order, bit []int, unknown int) []int {
	weight := make([]int, len(paths))
	dependents := newSets(len(paths), min(unknown, weighed))
	for first := 0; first < unknown; first += weighed {
		for _, set := range dependents {
			clear(set)
		}
		for len(order) > 0 && bit[order[0]] < first { // those before have none of these dependents
			order = order[1:]
		}
		for _, q := range order {
			if own := bit[q] - first; bit[q] >= 0 && own >= 0 && own < weighed {
				dependents[q].add(own)
			}
			n := dependents[q].len()
			if n == 0 {
				continue
			}
			if bit[q] >= 0 {
				weight[q] += n
			}
			for _, r := range paths[q].references {
				dependents[r].unite(dependents[q])
			}
		}
	}
	return weight
}

// dependentsFirst orders the paths so that each comes after all that refer to it.
func dependentsFirst(paths []member) ([]int, error) {
	referrers := make([]int, len(paths))
	for _, path := range paths {
		for _, r := range path.references {
			referrers[r]++
		}
	}
	order := make([]int, 0, len(paths))
	for i := range paths {
		if referrers[i] == 0 {
			order = append(order, i)
		}
	}
	for i := 0; i < len(order); i++ {
		for _, r := range paths[order[i]].references {
			if referrers[r]--; referrers[r] == 0 {
				order = append(order, r)
			}
		}
	}
	for i, path := range paths {
		if referrers[i] > 0 {
			return nil, fmt.Errorf("grouping a closure: %s is in or below a cycle of references", path.Path)
		}
	}
	return order, nil
}

// A set holds small numbers.
type set []uint64

// newSets returns n empty sets for numbers below limit.
func newSets(n, limit int) []set {
	words := (limit + 63) / 64
	all := make([]uint64, n*words)
	sets := make([]set, n)
	for i := range sets {
		sets[i] = all[i*words : (i+1)*words]
	}
	return sets
}

func (s set) add(number int) { s[number/64] |= 1 << (number % 64) }

func (s set) unite(other set) {
	for i, word := range other {
		s[i] |= word
	}
}

func (s set) len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}
