package rootfs

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
)

// minSection is how many entries there are in a directory that is a section. It is part of the
// format of root layers.
const minSection = 64

// A section of the archive is a whole directory, so that it need not be made anew for another image
// that has it, too.
type section struct {
	dir     *node
	entries int // below it
}

// A packer writes a Tree, sections first.
type packer struct {
	tree    *Tree
	written map[*node]bool // directories that are in sections, or that lie above those
}

// sections are those of the tree. The largest come first: a package that is added is seldom larger
// than all others, and leaves those before it as they are. The directories above a section are
// written with the first that needs them.
func (p *packer) sections(ctx context.Context) []layer.Section {
	ordered := slices.SortedFunc(slices.Values(p.tree.sections), func(a, b section) int {
		return cmp.Or(cmp.Compare(b.entries, a.entries), cmp.Compare(a.dir.name, b.dir.name))
	})
	sections := make([]layer.Section, len(ordered))
	for i, s := range ordered {
		dirs := []*node{s.dir}
		for n := s.dir.parent; n != p.tree.root && !p.written[n]; n = n.parent {
			dirs = append(dirs, n)
		}
		slices.Reverse(dirs)
		for _, n := range dirs {
			p.written[n] = true
		}
		sections[i] = layer.Section{
			Key: s.dir.name + "\x00" + s.dir.whole,
			Fill: func(archive *layer.Tar) error {
				for _, n := range dirs {
					if err := archive.Dir(n.name, n.mode); err != nil {
						return err
					}
				}
				return p.whole(ctx, archive, s.dir.name, s.dir.whole)
			},
		}
	}
	return sections
}

// rest writes what is below n and not in a section.
func (p *packer) rest(ctx context.Context, archive *layer.Tar, n *node) error {
	for _, name := range n.sorted() {
		if err := p.node(ctx, archive, n.children[name], strings.TrimPrefix(n.name+"/"+name, "/")); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) node(ctx context.Context, archive *layer.Tar, n *node, name string) error {
	switch {
	case n.link != "":
		return archive.Symlink(name, n.link)
	case !n.isDir():
		return archive.File(name, n.mode, int64(len(n.content)), strings.NewReader(n.content))
	case p.written[n] && n.whole != "": // a section
		return nil
	}
	if !p.written[n] {
		if err := archive.Dir(name, n.mode); err != nil {
			return err
		}
	}
	if n.whole != "" {
		return p.whole(ctx, archive, name, n.whole)
	}
	return p.rest(ctx, archive, n)
}

// whole writes what is in dir, a directory of the store that has a name in the image.
func (p *packer) whole(ctx context.Context, archive *layer.Tar, name, dir string) error {
	entries, err := p.tree.sources.list(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, source := name+"/"+e.Name, dir+"/"+e.Name
		switch {
		case leftOut(dir, e.Name):
		case e.Type.IsDir():
			if err = archive.Dir(name, 0o755); err == nil {
				err = p.whole(ctx, archive, name, source)
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
