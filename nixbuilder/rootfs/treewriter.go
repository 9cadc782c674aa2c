package rootfs

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
)

// minSection is the least number of entries below a lazy directory that makes it a section. It is
// part of the format of root layers.
const minSection = 64

// A section is a lazy directory that is a section of the layer: it need not be written anew for
// another image that has it, too.
type section struct {
	dir     *node
	entries int // below it
}

// A treeWriter writes a Tree, sections first.
type treeWriter struct {
	tree    *Tree
	written map[*node]bool // the directories that are sections, and those above them
}

// sections returns the sections of the layer. The largest come first: a package that is added is
// seldom larger than all others, and sections before its own stay known. A directory above sections
// is written with the first of them.
func (w *treeWriter) sections(ctx context.Context) []layer.Section {
	ordered := slices.SortedFunc(slices.Values(w.tree.sections), func(a, b section) int {
		return cmp.Or(cmp.Compare(b.entries, a.entries), cmp.Compare(a.dir.name, b.dir.name))
	})
	sections := make([]layer.Section, len(ordered))
	for i, s := range ordered {
		dirs := []*node{s.dir}
		for n := s.dir.parent; n != w.tree.root && !w.written[n]; n = n.parent {
			dirs = append(dirs, n)
		}
		slices.Reverse(dirs)
		for _, n := range dirs {
			w.written[n] = true
		}
		sections[i] = layer.Section{
			Key: s.dir.name + "\x00" + s.dir.lazyDir,
			Fill: func(archive *layer.Tar) error {
				for _, n := range dirs {
					if err := archive.Dir(n.name, n.mode); err != nil {
						return err
					}
				}
				return w.storeDir(ctx, archive, s.dir.name, s.dir.lazyDir)
			},
		}
	}
	return sections
}

// rest writes the nodes below n that are in no section.
func (w *treeWriter) rest(ctx context.Context, archive *layer.Tar, n *node) error {
	for _, name := range n.sorted() {
		if err := w.node(ctx, archive, n.children[name], strings.TrimPrefix(n.name+"/"+name, "/")); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWriter) node(ctx context.Context, archive *layer.Tar, n *node, name string) error {
	switch {
	case n.link != "":
		return archive.Symlink(name, n.link)
	case !n.isDir():
		return archive.File(name, n.mode, int64(len(n.content)), strings.NewReader(n.content))
	case w.written[n] && n.lazyDir != "": // a section
		return nil
	}
	if !w.written[n] {
		if err := archive.Dir(name, n.mode); err != nil {
			return err
		}
	}
	if n.lazyDir != "" {
		return w.storeDir(ctx, archive, name, n.lazyDir)
	}
	return w.rest(ctx, archive, n)
}

// storeDir writes the content of dir, a directory of the store that is called name in the image.
func (w *treeWriter) storeDir(ctx context.Context, archive *layer.Tar, name, dir string) error {
	entries, err := w.tree.sources.list(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, source := name+"/"+e.Name, dir+"/"+e.Name
		switch {
		case leftOut(dir, e.Name):
		case e.Type.IsDir():
			if err = archive.Dir(name, 0o755); err == nil {
				err = w.storeDir(ctx, archive, name, source)
			}
		default:
			err = archive.Symlink(name, source)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
