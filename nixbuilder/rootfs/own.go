package rootfs

import (
	"cmp"
	"context"
	"strings"
)

// An OwnFile is a file that an image gets if no package brings it.
type OwnFile struct {
	// Name is its path in the image, without a leading slash. Its directory is one that every image
	// has.
	Name string
	// Instead is the path of another file that serves as well; empty: there is none.
	Instead string
	Content string
}

// own adds files that no package brings.
func (m *merger) own(ctx context.Context, files []OwnFile) error {
	for _, f := range files {
		if f.Instead != "" {
			if instead, err := m.file(ctx, f.Instead); err != nil {
				return err
			} else if instead != "" {
				continue
			}
		}
		if err := m.add(ctx, f.Name, &node{content: f.Content, mode: 0o644}); err != nil {
			return err
		}
	}
	return nil
}

// file returns where in the store the file is that packages bring as name, or "" if there is none in
// the closure. Directories on the way stay lazy, unlike those of find.
func (m *merger) file(ctx context.Context, name string) (source string, err error) {
	n, rest := m.root, name
	for n.children != nil && rest != "" {
		var c string
		c, rest, _ = strings.Cut(rest, "/")
		if n = n.children[c]; n == nil {
			return "", nil
		}
	}
	if source = cmp.Or(n.link, n.lazyDir); source == "" {
		return "", nil
	}
	if rest != "" {
		source += "/" + rest
	}
	_, file, err := m.sources.resolve(ctx, source)
	if err != nil || file == nil || !file.Type.IsRegular() {
		return "", err
	}
	return source, nil
}
