package rootfs

import (
	"context"
	"io"
	"maps"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// A Tree is a merged root directory. It does not change any more, and is safe for concurrent use.
type Tree struct {
	sources  sources
	root     *node
	sections []section // in no order

	environment map[string]string
	notes       []string
}

// HasProgram reports whether there is a file or link of that name in /bin.
func (t *Tree) HasProgram(name string) bool {
	program := t.root.children["bin"].children[name]
	return program != nil && !program.isDir()
}

// Environment returns the variables by which programs find what the packages brought: modules of
// languages, certificates, time zones and other data. The caller may change the map.
func (t *Tree) Environment() map[string]string { return maps.Clone(t.environment) }

// Notes says, in sentences without a full stop, which modules of languages are not found because
// they are for another version of the interpreter than that in /bin.
func (t *Tree) Notes() []string { return t.notes }

// Pack writes the tree as a layer to w. See layer.WriteSections.
func (t *Tree) Pack(ctx context.Context, w io.Writer, compressor *compress.Compressor) (layer.Result, error) {
	entries := &treeWriter{tree: t, written: make(map[*node]bool)}
	rest := func(archive *layer.Tar) error { return entries.rest(ctx, archive, t.root) }
	return layer.WriteSections(ctx, w, compressor, entries.sections(ctx), rest)
}

// A node is a directory (lazyDir is not empty, or children is not nil), a symbolic link (link is
// not empty) or else a regular file.
type node struct {
	children map[string]*node // add to them by set
	link     string
	content  string
	mode     int64 // of a directory or file

	// Of directories:
	lazyDir string   // the store's directory with the same content, as long as nothing had to look into it
	names   []string // of children, as they were added; sorted where one package has brought them
	parent  *node
	name    string   // its path in the image, without a leading slash; empty for the root directory
	merged  []string // the store's directories that have been merged into it
}

func (n *node) isDir() bool { return n.lazyDir != "" || n.children != nil }

// set gives a directory a child, in place of the one that has the name.
func (n *node) set(name string, child *node) {
	if n.children[name] == nil {
		n.names = append(n.names, name)
	}
	n.children[name] = child
}

// sorted returns the names of the children, in the order of their bytes.
func (n *node) sorted() []string {
	if slices.IsSorted(n.names) {
		return n.names
	}
	return slices.Sorted(slices.Values(n.names)) // not in place: others may be packing the tree
}

// repeats counts how often dir has been merged into this directory and those above it.
func (n *node) repeats(dir string) (count int) {
	for ; n != nil; n = n.parent {
		if slices.Contains(n.merged, dir) {
			count++
		}
	}
	return count
}
