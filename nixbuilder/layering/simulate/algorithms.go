package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layering"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// budget is the number of layers that every algorithm may make.
const budget = layering.DefaultBudget

// grouping is an algorithm: it splits the paths of an image into layers. It may remember earlier
// images.
type grouping func(image) ([][]int, error)

// algorithm is a row of the table.
type algorithm struct {
	name string
	new  func(*archive) grouping
}

func algorithms() []algorithm {
	return []algorithm{
		{"Nixery (dominator tree, merged by popularity × size)", newNixery},
		{"one path a layer for the N most popular, one rest (dockerTools, nix2container)", newMostPopular},
		{"one path a layer for the N largest, one rest", newLargest},
		{"heads, from the image alone (no memory)", func(a *archive) grouping { return newHeads(a, false) }},
		{"heads, with a map that is kept", func(a *archive) grouping { return newHeads(a, true) }},
		{"heads, with a map of the whole set", func(a *archive) grouping { return newHeadsOfAll(a) }},
	}
}

// headMap is the map of heads.
type headMap map[layering.Key]layering.Head

func (m headMap) head(key layering.Key) (layering.Head, bool) { head, ok := m[key]; return head, ok }

// newHeads is what this product does.
func newHeads(a *archive, keep bool) grouping {
	kept := make(headMap)
	return func(img image) ([][]int, error) {
		if !keep {
			clear(kept)
		}
		return a.groupByHeads(img, kept)
	}
}

// newHeadsOfAll is what this product does after `registry nix layout`: the map begins with all
// packages at once, as they are before any update.
func newHeadsOfAll(a *archive) grouping {
	var kept headMap
	return func(img image) ([][]int, error) {
		if kept == nil {
			if a.heads == nil {
				all := image{built: make([]int, len(a.packages))}
				for i := range a.packages {
					all.paths = append(all.paths, i)
				}
				heads := make(headMap)
				if _, err := a.groupByHeads(all, heads); err != nil {
					return nil, err
				}
				a.heads = heads
			}
			kept = maps.Clone(a.heads)
		}
		return a.groupByHeads(img, kept)
	}
}

// groupByHeads adds what is new to a map of heads, and groups an image by it.
func (a *archive) groupByHeads(img image, kept headMap) ([][]int, error) {
	closure, packages := a.closureOf(img)
	added, err := layering.Assign(closure, kept.head)
	if err != nil {
		return nil, err
	}
	for _, h := range added {
		kept[h.Key] = h
	}
	paths, err := layering.Group(closure, kept.head, layering.Options{Budget: budget})
	if err != nil {
		return nil, err
	}
	layers := make([][]int, len(paths))
	for i, layer := range paths {
		for _, path := range layer {
			layers[i] = append(layers[i], packages[path])
		}
	}
	return layers, nil
}

// closureOf makes the closure that an image would have in a Nix store, and says which package each
// path is.
func (a *archive) closureOf(img image) ([]store.PathInfo, map[store.Path]int) {
	paths := make(map[int]store.Path, len(img.paths))
	packages := make(map[store.Path]int, len(img.paths))
	for _, i := range img.paths {
		paths[i] = a.path(img, i)
		packages[paths[i]] = i
	}
	closure := make([]store.PathInfo, len(img.paths))
	for n, i := range img.paths {
		closure[n] = store.PathInfo{Path: paths[i], NarSize: a.packages[i].size}
		for _, d := range a.packages[i].dependencies {
			closure[n].References = append(closure[n].References, paths[d])
		}
	}
	return closure, packages
}

// path makes the store path of a package. As in Nix, a package that is rebuilt has another hash;
// its version changes too.
func (a *archive) path(img image, i int) store.Path {
	version := strings.NewReplacer(":", ".", "~", "_").Replace(a.packages[i].version)
	name := fmt.Sprintf("%s-%s.%d", a.packages[i].name, version, img.built[i])
	sum := sha256.Sum256([]byte(name))
	hash := base32.NewEncoding("0123456789abcdfghijklmnpqrsvwxyz").EncodeToString(sum[:20])
	return store.Path(store.Dir + "/" + hash + "-" + name)
}

// newLargest gives the largest paths a layer each.
func newLargest(a *archive) grouping {
	return func(img image) ([][]int, error) {
		return onePathALayer(img, func(i int) float64 { return float64(a.packages[i].size) }), nil
	}
}

// newMostPopular gives a layer each to the paths that nixpkgs' references-by-popularity puts first:
// a path's popularity is the number of ways that lead from the image to it or to anything that
// needs it.
func newMostPopular(a *archive) grouping {
	return func(img image) ([][]int, error) {
		ways := make(map[int]float64) // to a path; too many for an integer
		for _, i := range img.roots {
			ways[i] = 1
		}
		popularity := make(map[int]float64)
		for _, i := range a.dependentsFirst(img) {
			for _, d := range a.packages[i].dependencies {
				ways[d] += ways[i]
			}
			for _, d := range a.closure(i) {
				popularity[d] += ways[i]
			}
		}
		return onePathALayer(img, func(i int) float64 { return popularity[i] }), nil
	}
}

// onePathALayer gives the paths of the highest rank a layer each, and the others one together.
func onePathALayer(img image, rank func(int) float64) [][]int {
	ordered := slices.Clone(img.paths)
	slices.SortStableFunc(ordered, func(a, b int) int { return cmp.Compare(rank(b), rank(a)) })
	var layers [][]int
	own := min(len(ordered), budget)
	if len(ordered) > budget {
		own = budget - 1
		layers = append(layers, ordered[own:])
	}
	for _, i := range ordered[:own] {
		layers = append(layers, []int{i})
	}
	return layers
}

// dependentsFirst orders the paths of an image so that each comes after all that depend on it.
func (a *archive) dependentsFirst(img image) []int {
	waiting := make(map[int]int)
	for _, i := range img.paths {
		for _, d := range a.packages[i].dependencies {
			waiting[d]++
		}
	}
	var order []int
	for _, i := range img.paths {
		if waiting[i] == 0 {
			order = append(order, i)
		}
	}
	for n := 0; n < len(order); n++ {
		for _, d := range a.packages[order[n]].dependencies {
			if waiting[d]--; waiting[d] == 0 {
				order = append(order, d)
			}
		}
	}
	return order
}
