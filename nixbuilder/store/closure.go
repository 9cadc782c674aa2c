package store

import "slices"

// NarSize is how many bytes paths have together, as NARs.
func NarSize(infos []PathInfo) (bytes int64) {
	for _, info := range infos {
		bytes += info.NarSize
	}
	return bytes
}

// Reachable is what roots refer to, themselves included, in a closure by path. Its order is that of
// a walk.
func Reachable(closure map[Path]PathInfo, roots []Path) (infos []PathInfo) {
	seen := make(map[Path]bool)
	for next := slices.Clone(roots); len(next) > 0; {
		p := next[len(next)-1]
		next = next[:len(next)-1]
		if !seen[p] {
			seen[p] = true
			infos = append(infos, closure[p])
			next = append(next, closure[p].References...)
		}
	}
	return infos
}
