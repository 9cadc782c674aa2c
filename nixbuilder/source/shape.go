package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// shapeDepth is how many levels of directories below the set's own a Shape lists. Of nixpkgs these
// are some dozens of directories, with the times of some hundreds.
const shapeDepth = 1

// Shape tells what a pinned set's files look like from above. It changes when somebody who ignores
// locks removes them or moves them away; it does not see deeper changes. An error means that the
// files are gone. For a set as large as nixpkgs it takes half a millisecond.
func (p Pinned) Shape() (string, error) {
	sum := sha256.New()
	paths := []string{p.Path}
	for _, name := range slices.Sorted(maps.Keys(p.NixPath)) {
		paths = append(paths, p.NixPath[name])
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			return "", err
		}
		addShape(sum, path, shapeDepth)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func addShape(sum hash.Hash, path string, levels int) {
	info, err := os.Lstat(path)
	if err != nil {
		return
	}
	fmt.Fprintf(sum, "%s: %v %d %d\n", path, info.Mode(), info.Size(), info.ModTime().UnixNano())
	if !info.IsDir() || levels < 0 {
		return
	}
	entries, _ := os.ReadDir(path) // as far as they can be read
	for _, entry := range entries {
		if entry.IsDir() {
			addShape(sum, filepath.Join(path, entry.Name()), levels-1)
		}
	}
}
