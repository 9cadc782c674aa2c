package rootfs

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
)

// Tree is a merged root directory. It is not changed any more and safe for concurrent use.
type Tree struct{ root *node }

// Has reports whether there is a file or link of that name ("bin/bash"). Names are relative to the root
// directory. Links to directories are not followed; /bin and /etc are always real.
func (t *Tree) Has(name string) bool {
	n := t.root
	for c := range strings.SplitSeq(name, "/") {
		// A nil map has no children: files and links end the walk.
		if n = n.children[c]; n == nil {
			return false
		}
	}
	return !n.isDir()
}

// Pack writes the tree as a layer to w; see layer.WriteRecurring. It fails if a package holds a name that stands for a
// deletion in a layer (.wh.…).
func (t *Tree) Pack(ctx context.Context, w io.Writer, compressor *layer.Compressor) (layer.Result, error) {
	return layer.WriteRecurring(ctx, w, compressor, func(archive *layer.Tar) error { return t.root.pack(archive, "") })
}

// node is a directory (children is not nil), a symbolic link (link is not empty) or else a regular file.
type node struct {
	children map[string]*node // add to them by set
	link     string
	content  string
	mode     int64 // of a directory or file

	// Of directories:
	names  []string // of children, as they came: sorted for most, whose content is one package's
	parent *node
	name   string   // the whole name, without a leading slash; the root directory's is empty
	merged []string // the store's directories that have been merged into it
}

func (n *node) isDir() bool { return n.children != nil }

// set gives a directory a child, in place of the one that has the name.
func (n *node) set(name string, child *node) {
	if n.children[name] == nil {
		n.names = append(n.names, name)
	}
	n.children[name] = child
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

// pack writes what lies below n. Prefix is empty or ends with a slash.
func (n *node) pack(archive *layer.Tar, prefix string) error {
	names := n.names
	if !slices.IsSorted(names) {
		names = slices.Sorted(slices.Values(names)) // others may be packing the tree
	}
	for _, name := range names {
		child, full := n.children[name], prefix+name
		if err := child.packSelf(archive, full); err != nil {
			return err
		}
		if child.isDir() {
			if err := child.pack(archive, full+"/"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *node) packSelf(archive *layer.Tar, name string) error {
	switch {
	case n.isDir():
		return archive.Dir(name, n.mode)
	case n.link != "":
		return archive.Symlink(name, n.link)
	}
	return archive.File(name, n.mode, int64(len(n.content)), strings.NewReader(n.content))
}
