package eval

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/internal/nearmiss"
)

// maxNearMisses is how many near misses a failure names.
const maxNearMisses = 3

// A nearMiss is an attribute that a name may have meant.
type nearMiss struct {
	attr     string // in lower case
	distance int    // 0 if it begins with the name; else two for each mistake, less one if the letters are the same
	family   int    // how many attributes begin with it
}

// nearMisses returns the names that may have been meant by a name that leads to path and no
// further, because its next part is not among attrs. First come attributes that begin with that
// part, then those that are a letter or two away or that it begins with. Among equals, the one that
// most attributes begin with is the likeliest: nodejs before nodejs_24. An attribute that is a
// single mistake away always has a place.
func nearMisses(name string, path, attrs []string) []string {
	parts := strings.Split(name, ".")
	if len(path) >= len(parts) || parts[len(path)] == "" {
		return nil
	}
	wanted, rest := strings.ToLower(parts[len(path)]), parts[len(path)+1:]
	all := make([]string, len(attrs))
	for i, attr := range attrs {
		all[i] = strings.ToLower(strings.TrimPrefix(attr, "_"))
	}
	slices.Sort(all)

	var begun, near []nearMiss
	for _, attr := range slices.Compact(slices.Clone(all)) {
		miss := nearMiss{attr: attr}
		var resembles bool
		if miss.distance, resembles = distance(wanted, attr); !resembles {
			continue
		}
		from, _ := slices.BinarySearch(all, attr)
		to, _ := slices.BinarySearch(all, attr+"\xff") // behind all that begin with it
		miss.family = to - from
		if miss.distance == 0 {
			begun = append(begun, miss)
		} else {
			near = append(near, miss)
		}
	}
	for _, misses := range [][]nearMiss{begun, near} {
		slices.SortFunc(misses, func(a, b nearMiss) int {
			return cmp.Or(
				cmp.Compare(a.distance, b.distance), cmp.Compare(b.family, a.family),
				cmp.Compare(a.attr, b.attr),
			)
		})
	}
	if len(near) > 0 && near[0].distance <= 2 {
		begun = begun[:min(len(begun), maxNearMisses-1)]
	}
	var names []string
	for _, miss := range append(begun, near...) {
		if name, ok := askable(slices.Concat(path, []string{miss.attr}, rest)); ok && len(names) < maxNearMisses {
			names = append(names, name)
		}
	}
	return names
}

// distance is a nearMiss's. It is false if an attribute has too little in common with the name.
func distance(wanted, attr string) (distance int, resembles bool) {
	tolerated := 1 + len(attr)/5
	difference := len(attr) - len(wanted)
	switch {
	case strings.HasPrefix(attr, wanted):
		return 0, true
	case len(attr) > 2 && strings.HasPrefix(wanted, attr):
		return 2 * -difference, true
	case difference > tolerated || -difference > tolerated:
		return 0, false
	}
	n := nearmiss.Mistakes(wanted, attr)
	if distance = 2 * n; sameLetters(wanted, attr) {
		distance--
	}
	return distance, n <= tolerated
}

func sameLetters(a, b string) bool {
	return slices.Equal(slices.Sorted(slices.Values([]byte(a))), slices.Sorted(slices.Values([]byte(b))))
}

// component matches what may stand between the slashes of a registry's name, by the distribution
// specification.
var component = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)

// askable is the name by which clients can ask for an attribute path, if there is one: names of
// registries are in lower case, and don't begin with `_`.
func askable(path []string) (string, bool) {
	parts := make([]string, len(path))
	for i, attr := range path {
		parts[i] = strings.ToLower(strings.TrimPrefix(attr, "_"))
	}
	name := strings.Join(parts, ".")
	return name, len(name) <= maxName && component.MatchString(name)
}
