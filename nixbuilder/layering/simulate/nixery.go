package main

import (
	"cmp"
	"slices"
)

const (
	bigClosure = 100_000_000 // bytes of a path and all it needs; from there on Nixery calls it big
	popular    = 100         // references from the package set; from there on Nixery calls it popular
)

// newNixery groups as Nixery documents it in its layers package. In the dominator tree of the
// references, each subtree directly under the image is a layer; big and popular paths are put
// there. Over the budget, the layers of the lowest rating become one. A layer's rating is the
// popularity of its topmost path times the sizes of its paths, each of which Nixery counts with all
// that it needs.
func newNixery(a *archive) grouping {
	closureSize := make(map[int]int64)
	sizeOf := func(i int) int64 {
		size, ok := closureSize[i]
		if !ok {
			for _, d := range a.closure(i) {
				size += a.packages[d].size
			}
			closureSize[i] = size
		}
		return size
	}
	return func(img image) ([][]int, error) {
		// A path has the topmost path of all that lead to it. If they have different ones, nothing
		// but the image dominates the path, and it is topmost itself.
		const none = -1
		topmost := make(map[int]int)
		for _, i := range img.paths {
			topmost[i] = none
			if sizeOf(i) > bigClosure || len(a.dependents[i]) >= popular {
				topmost[i] = i
			}
		}
		for _, i := range img.roots {
			topmost[i] = i
		}
		members := make(map[int][]int)
		rating := make(map[int]int64)
		for _, i := range a.dependentsFirst(img) {
			top := topmost[i]
			members[top] = append(members[top], i)
			rating[top] += sizeOf(i) * max(1, int64(len(a.dependents[top])))
			for _, d := range a.packages[i].dependencies {
				switch topmost[d] {
				case none:
					topmost[d] = top
				case top:
				default:
					topmost[d] = d
				}
			}
		}

		var tops []int
		for _, i := range img.paths {
			if topmost[i] == i {
				tops = append(tops, i)
			}
		}
		slices.SortStableFunc(tops, func(a, b int) int { return cmp.Compare(rating[a], rating[b]) })
		var layers [][]int
		for n, top := range tops {
			if n > 0 && n <= len(tops)-budget {
				layers[0] = append(layers[0], members[top]...)
			} else {
				layers = append(layers, members[top])
			}
		}
		return layers, nil
	}
}
