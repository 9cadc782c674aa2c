package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	seed := flag.Uint64("seed", 1, "`number` that decides which packages are combined and updated")
	rootsFile := flag.String(
		"roots", "", "`file` of package names to make images of (default: those that most depend on)",
	)
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *rootsFile, published(), *seed); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

// run reads a package index and prints the table.
func run(index io.Reader, out io.Writer, rootsFile string, n amounts, seed uint64) error {
	var roots []string
	if rootsFile != "" {
		text, err := os.ReadFile(rootsFile)
		if err != nil {
			return err
		}
		roots = strings.Fields(string(text))
	}
	a, err := readArchive(index)
	if err != nil {
		return err
	}
	w, err := newWorkload(a, roots, n, seed)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "| algorithm | (a) stored | (b) stored | (b) bytes over 100 pulls | updates, mass | "+
		"updates, channel | layers, median | one package more |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|")
	for _, algorithm := range algorithms() {
		r, err := measure(a, w, algorithm.new)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", algorithm.name, err)
		}
		fmt.Fprintf(out, "| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %d | %.1f MB |\n",
			algorithm.name, r.single, r.combined, r.pulled, r.mass, r.channel, r.layers, r.more)
	}
	return nil
}

// row is what was measured of an algorithm. The ratios are bytes of layers in proportion to bytes
// of paths.
type row struct {
	single, combined, pulled, mass, channel float64
	layers                                  int // median over the combined images
	// more is the median, in megabytes, of the layers that are new when a growing image gets a
	// package more.
	more float64
}

// measure runs an algorithm over the workload. The algorithm starts without memory for the single
// images, for the combined ones with each sort of updates after them, and for each growing image.
func measure(a *archive, w *workload, newGrouping func(*archive) grouping) (row, error) {
	var r row
	single := newLedger(a)
	group := newGrouping(a)
	for _, img := range w.single {
		layers, err := group(img)
		if err != nil {
			return row{}, err
		}
		single.add(img, layers)
	}
	r.single = single.ratio()

	for _, updates := range []struct {
		images [][]image
		ratio  *float64
	}{{w.mass, &r.mass}, {w.channel, &r.channel}} {
		combined, pulled := newLedger(a), newLedger(a)
		group := newGrouping(a)
		var counts []int
		made := make([][][]int, len(w.combined))
		for i, img := range w.combined {
			layers, err := group(img)
			if err != nil {
				return row{}, err
			}
			made[i] = layers
			counts = append(counts, len(layers))
			combined.add(img, layers)
		}
		for _, i := range w.pulled {
			pulled.add(w.combined[i], made[i])
		}
		slices.Sort(counts)
		r.combined, r.pulled, r.layers = combined.ratio(), pulled.ratio(), counts[len(counts)/2]

		for _, images := range updates.images {
			for _, img := range images {
				layers, err := group(img)
				if err != nil {
					return row{}, err
				}
				pulled.add(img, layers)
			}
		}
		*updates.ratio = pulled.ratio()
	}
	var err error
	r.more, err = measureGrowth(a, w.growing, newGrouping)
	return r, err
}

func measureGrowth(a *archive, growing []growth, newGrouping func(*archive) grouping) (more float64, err error) {
	var fresh []int64
	for _, g := range growing {
		stored, group := newLedger(a), newGrouping(a)
		for n, img := range slices.Concat(g.alone, []image{g.many}, g.more) {
			before := stored.layerBytes
			layers, err := group(img)
			if err != nil {
				return 0, err
			}
			stored.add(img, layers)
			if n > len(g.alone) {
				fresh = append(fresh, stored.layerBytes-before)
			}
		}
	}
	if len(fresh) == 0 {
		return 0, nil
	}
	slices.Sort(fresh)
	return float64(fresh[len(fresh)/2]) / 1e6, nil
}

// ledger is a registry's store, or that of a client that deletes nothing: each layer once.
type ledger struct {
	a           *archive
	layers      map[string]bool
	paths       map[[2]int]bool
	layerBytes  int64
	uniqueBytes int64
}

func newLedger(a *archive) *ledger {
	return &ledger{a: a, layers: make(map[string]bool), paths: make(map[[2]int]bool)}
}

func (l *ledger) add(img image, layers [][]int) {
	for _, layer := range layers {
		slices.Sort(layer)
		var size int64
		var name []byte
		for _, i := range layer {
			size += l.a.packages[i].size
			name = binary.AppendVarint(binary.AppendVarint(name, int64(i)), int64(img.built[i]))
			if path := [2]int{i, img.built[i]}; !l.paths[path] {
				l.paths[path] = true
				l.uniqueBytes += l.a.packages[i].size
			}
		}
		if !l.layers[string(name)] {
			l.layers[string(name)] = true
			l.layerBytes += size
		}
	}
}

// ratio is how many bytes the ledger holds for each byte that it must hold: 1 is perfect.
func (l *ledger) ratio() float64 { return float64(l.layerBytes) / float64(l.uniqueBytes) }
