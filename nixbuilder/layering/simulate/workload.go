package main

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// shell is what the meta-package shell stands for: part of each combined image.
func shell() []string { return []string{"bash", "coreutils", "moreutils", "nano"} }

// amounts are the size of a workload.
type amounts struct {
	roots     int // packages that images are made of, where they are not named
	combined  int // images of several packages
	pulled    int // of those
	revisions int // updates of the archive
	growing   int // images of many packages
}

// published are the amounts of the table in docs/layering.md.
func published() amounts {
	return amounts{roots: 300, combined: 1000, pulled: 100, revisions: 10, growing: 20}
}

const (
	manyRoots = 25 // of a growing image
	moreRoots = 5  // that it is tried with, one at a time
)

// image is what somebody asked for, at one revision of the archive.
type image struct {
	roots []int
	paths []int // the closure of roots, sorted
	built []int // of each package of the archive, the revision that it was built for last
}

// workload is what the algorithms are compared on.
type workload struct {
	single   []image   // one for each root
	combined []image   // 2-6 roots and the shell
	pulled   []int     // indexes of some of combined
	mass     [][]image // those again, at each revision
	channel  [][]image
	growing  []growth
}

// growth is an image of many packages, and what else is asked for.
type growth struct {
	alone []image // each of its packages, and of those that it is tried with
	many  image
	more  []image // it, and one package more
}

// newWorkload makes images of the named packages, or of those that most packages depend on if there
// are no names. The same archive, names and seed make the same workload.
func newWorkload(a *archive, names []string, n amounts, seed uint64) (*workload, error) {
	roots, err := a.indexes(names)
	if err != nil {
		return nil, err
	}
	if len(roots) == 0 {
		roots = a.mostDependedOn(n.roots)
	}
	shell, err := a.indexes(shell())
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	w := &workload{}
	first := make([]int, len(a.packages))
	newImage := func(roots []int) image {
		return image{roots, reach(roots, a.dependenciesOf), first}
	}
	for _, root := range roots {
		w.single = append(w.single, newImage([]int{root}))
	}
	for range n.combined {
		asked := slices.Clone(shell)
		for _, i := range random.Perm(len(roots))[:min(2+random.IntN(5), len(roots))] {
			asked = append(asked, roots[i])
		}
		slices.Sort(asked)
		w.combined = append(w.combined, newImage(slices.Compact(asked)))
	}
	w.pulled = random.Perm(n.combined)[:n.pulled]
	w.mass = w.updates(a, n.revisions, random, massRebuild)
	w.channel = w.updates(a, n.revisions, random, channelUpdate)
	for range n.growing {
		var g growth
		var many []int
		for n, i := range random.Perm(len(roots)) {
			if n == manyRoots+moreRoots {
				break
			}
			g.alone = append(g.alone, newImage([]int{roots[i]}))
			if n < manyRoots {
				many = append(many, roots[i])
			} else {
				g.more = append(g.more, newImage(append(slices.Clone(many), roots[i])))
			}
		}
		g.many = newImage(many)
		w.growing = append(w.growing, g)
	}
	return w, nil
}

// updates returns the pulled images at each revision. 1-5 % of the packages change from one to the
// next.
func (w *workload) updates(
	a *archive, revisions int, random *rand.Rand, update func(a *archive, order []int, changes int) []int,
) [][]image {
	var updated [][]image
	built := make([]int, len(a.packages))
	for revision := range revisions {
		built = slices.Clone(built)
		changes := len(a.packages) * (100 + random.IntN(401)) / 10_000
		for _, i := range update(a, random.Perm(len(a.packages)), changes) {
			built[i] = revision + 1
		}
		var images []image
		for _, i := range w.pulled {
			img := w.combined[i]
			img.built = built
			images = append(images, img)
		}
		updated = append(updated, images)
	}
	return updated
}

// massRebuild changes the first packages of the order and rebuilds all that depend on them, as
// after a change of the compiler's or the C library's package: most paths of an image are new.
func massRebuild(a *archive, order []int, changes int) []int {
	return reach(order[:changes], a.dependentsOf)
}

// channelUpdate takes changes in order while no more than so many packages must be rebuilt for
// them, as a channel does from day to day: most paths of an image stay.
func channelUpdate(a *archive, order []int, changes int) []int {
	rebuilt := make(map[int]bool)
	for _, i := range order {
		dependents := reach([]int{i}, a.dependentsOf)
		if len(rebuilt)+len(dependents) <= changes {
			for _, d := range dependents {
				rebuilt[d] = true
			}
		}
		if len(rebuilt) == changes {
			break
		}
	}
	return slices.Sorted(maps.Keys(rebuilt))
}

// mostDependedOn returns the n packages that the most packages name as a dependency, the most
// first.
func (a *archive) mostDependedOn(n int) []int {
	order := make([]int, len(a.packages))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(len(a.dependents[j]), len(a.dependents[i])) })
	return order[:min(n, len(order))]
}

func (a *archive) indexes(names []string) ([]int, error) {
	var found []int
	for _, name := range names {
		i, ok := a.byName[name]
		if !ok {
			return nil, fmt.Errorf("finding %s in the package index: it is not there", name)
		}
		found = append(found, i)
	}
	return found, nil
}
