package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// archive is a graph of packages without cycles, sorted by name. A package is its index.
type archive struct {
	packages   []pkg
	byName     map[string]int
	dependents [][]int       // the packages that depend directly on each
	closures   map[int][]int // what closure found
	heads      headMap       // of all packages, once they were computed
}

type pkg struct {
	name, version string
	size          int64 // installed size in bytes
	dependencies  []int // direct
}

// readArchive reads the stanzas of a Debian package index. It takes the dependencies of Depends,
// not those of Pre-Depends, which are for the installation alone. Of alternatives, it takes the
// first that exists, or else the first that a package provides. It leaves out dependencies that
// close a cycle, since a Nix store has no cycles.
func readArchive(r io.Reader) (*archive, error) {
	var stanzas []map[string]string
	stanza := map[string]string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), ":")
		switch {
		case lines.Text() == "":
			stanzas = append(stanzas, stanza)
			stanza = map[string]string{}
		case ok && !strings.HasPrefix(name, " "):
			stanza[name] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading a package index: %w", err)
	}
	stanzas = append(stanzas, stanza)
	stanzas = slices.DeleteFunc(stanzas, func(s map[string]string) bool { return s["Package"] == "" })
	if len(stanzas) == 0 {
		return nil, fmt.Errorf("reading a package index: it is empty")
	}
	byPackage := func(a, b map[string]string) int { return cmp.Compare(a["Package"], b["Package"]) }
	slices.SortStableFunc(stanzas, byPackage)
	stanzas = slices.CompactFunc(stanzas, func(a, b map[string]string) bool { return byPackage(a, b) == 0 })

	a := &archive{
		packages:   make([]pkg, len(stanzas)),
		byName:     make(map[string]int),
		dependents: make([][]int, len(stanzas)),
		closures:   make(map[int][]int),
	}
	providers := make(map[string]int)
	for i, s := range stanzas {
		a.byName[s["Package"]] = i
		for provided := range strings.SplitSeq(s["Provides"], ",") {
			if name := bareName(provided); name != "" {
				if _, ok := providers[name]; !ok {
					providers[name] = i
				}
			}
		}
	}
	for i, s := range stanzas {
		p := &a.packages[i]
		p.name, p.version = s["Package"], s["Version"]
		if kib := s["Installed-Size"]; kib != "" {
			n, err := strconv.ParseInt(kib, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("reading the size of %s: %w", p.name, err)
			}
			p.size = n << 10
		}
		for alternatives := range strings.SplitSeq(s["Depends"], ",") {
			if d, ok := a.choose(alternatives, providers); ok && d != i && !slices.Contains(p.dependencies, d) {
				p.dependencies = append(p.dependencies, d)
			}
		}
	}
	a.breakCycles()
	for i, p := range a.packages {
		for _, d := range p.dependencies {
			a.dependents[d] = append(a.dependents[d], i)
		}
	}
	return a, nil
}

// choose returns the package for a dependency such as "mawk (>= 1.3) | awk".
func (a *archive) choose(alternatives string, providers map[string]int) (int, bool) {
	for _, names := range []map[string]int{a.byName, providers} {
		for alternative := range strings.SplitSeq(alternatives, "|") {
			if i, ok := names[bareName(alternative)]; ok {
				return i, true
			}
		}
	}
	return 0, false
}

// bareName is the name in " perl:any (>= 5) ".
func bareName(relation string) string {
	name := strings.TrimSpace(relation)
	if end := strings.IndexAny(name, " (:["); end >= 0 {
		name = name[:end]
	}
	return name
}

// breakCycles walks the dependencies, from packages in order of names, and leaves out those that
// lead back to a package on the way.
func (a *archive) breakCycles() {
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(a.packages))
	var visit func(int)
	visit = func(i int) {
		state[i] = open
		p := &a.packages[i]
		p.dependencies = slices.DeleteFunc(p.dependencies, func(d int) bool {
			if state[d] == unseen {
				visit(d)
			}
			return state[d] == open
		})
		state[i] = done
	}
	for i := range a.packages {
		if state[i] == unseen {
			visit(i)
		}
	}
}

// reach returns what can be reached from the roots by edges, roots included, sorted.
func reach(roots []int, edges func(int) []int) []int {
	seen := make(map[int]bool)
	queue := slices.Clone(roots)
	for len(queue) > 0 {
		i := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if !seen[i] {
			seen[i] = true
			queue = append(queue, edges(i)...)
		}
	}
	found := make([]int, 0, len(seen))
	for i := range seen {
		found = append(found, i)
	}
	slices.Sort(found)
	return found
}

func (a *archive) dependenciesOf(i int) []int { return a.packages[i].dependencies }
func (a *archive) dependentsOf(i int) []int   { return a.dependents[i] }

// closure returns a package and all that it needs, sorted.
func (a *archive) closure(i int) []int {
	if a.closures[i] == nil {
		a.closures[i] = reach([]int{i}, a.dependenciesOf)
	}
	return a.closures[i]
}
