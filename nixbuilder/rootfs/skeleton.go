package rootfs

import (
	"cmp"
	"context"
	"path"
	"strings"
)

// skeleton returns the root directory before any package is merged. Its directories are real ones
// whatever packages bring.
//
// Container runtimes mount on dev, proc, run and sys. They can make these only in an image that is
// writable, and chroot never makes them. Programs expect to be able to write to /root and to the
// temporary directories.
func skeleton() *node {
	root := &node{children: map[string]*node{}, mode: 0o755}
	for _, d := range []struct {
		parent, name string
		mode         int64
	}{
		{"", "bin", 0o755}, {"", "dev", 0o755}, {"", "etc", 0o755}, {"", "proc", 0o755},
		{"", "root", 0o700}, {"", "run", 0o755}, {"", "sbin", 0o755}, {"", "sys", 0o755}, {"", "tmp", 0o1777},
		{"", "usr", 0o755}, {"", "var", 0o755}, {"usr", "bin", 0o755}, {"usr", "sbin", 0o755},
		{"var", "empty", 0o555}, {"var", "tmp", 0o1777},
	} {
		parent := root
		if d.parent != "" {
			parent = root.children[d.parent]
		}
		dir := &node{children: map[string]*node{}, mode: d.mode, parent: parent, name: path.Join(d.parent, d.name)}
		parent.set(d.name, dir)
	}
	return root
}

// complete adds the files that programs look for at a fixed place, if no package brings them.
func (m *merger) complete(ctx context.Context) error {
	if err := m.etcFiles(ctx); err != nil {
		return err
	}
	// Unpackers without rights could put nothing into a directory that they can't write to.
	if empty := m.root.children["var"].children["empty"]; len(empty.children) > 0 {
		empty.mode = 0o755
	}
	if err := m.add(ctx, "var/run", &node{link: "/run"}); err != nil {
		return err
	}
	for _, alias := range []struct{ name, of string }{
		{"bin/sh", "bin/bash"},
		{"bin/sh", "bin/dash"},
		{"bin/sh", "bin/busybox"},
	} {
		of, err := m.find(ctx, alias.of)
		if err != nil {
			return err
		}
		if of == nil || of.isDir() {
			continue
		}
		if err := m.add(ctx, alias.name, &node{link: of.link}); err != nil {
			return err
		}
	}
	return cmp.Or(m.usr("bin"), m.usr("sbin"))
}

// usr makes the programs of a directory reachable in that of the same name in /usr, where scripts
// look for them. The links lead to the other name, not into the store: so both names are the same
// program when one is written over (docs/decisions/usr-bin.md).
func (m *merger) usr(dir string) error {
	programs, links := m.root.children[dir], m.root.children["usr"].children[dir]
	for _, name := range programs.sorted() {
		if programs.children[name].isDir() || links.children[name] != nil {
			continue
		}
		if err := m.put(links, name, &node{link: "../../" + dir + "/" + name}); err != nil {
			return err
		}
	}
	return nil
}

// add puts child under name, whose directory exists, unless something is there.
func (m *merger) add(ctx context.Context, name string, child *node) error {
	if here, err := m.find(ctx, name); err != nil || here != nil {
		return err
	}
	dir, err := m.find(ctx, path.Dir(name))
	if err != nil {
		return err
	}
	return m.put(dir, path.Base(name), child)
}

// find returns the node called name, or nil. Links to directories on the way become directories.
func (m *merger) find(ctx context.Context, name string) (*node, error) {
	n, err := m.root, error(nil)
	dir, base := path.Split(name)
	for c := range strings.FieldsFuncSeq(dir, func(r rune) bool { return r == '/' }) {
		if n, err = m.open(ctx, n, c); n == nil || err != nil {
			return nil, err
		}
	}
	return n.children[base], nil
}
