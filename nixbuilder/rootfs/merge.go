package rootfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// maxEntries bounds a root directory. Without it, links that lead back to a directory above them
// would multiply its content.
const maxEntries = 500_000

// Package is a requested package.
type Package struct {
	Name string
	// Priority decides between packages that bring the same file: that of the lowest priority is
	// taken, among equals that of the first name.
	Priority int
	// Outputs are the store paths that are merged. If several bring the same file, that of the
	// first one is taken.
	Outputs []store.Path
}

// Merge makes the root directory of an image of packages. Their order does not matter. closure is
// that of the image; every output must be part of it. The Tree reads from files when it is packed,
// too.
//
// The interpreters of languages find the modules that packages bring, and those that these need
// (see Tree.Environment).
//
// Three things are as in a Nix profile. The store paths that an output names in
// nix-support/propagated-user-env-packages are merged after all requested packages, if they are in
// the closure. A link to a directory merges with another directory of the same name. Nix's own
// files in an output are left out.
//
// Four things are not. Files that begin with a dot are not left out. A link that leads nowhere is a
// file. A file and a directory of the same name are no error: that of the better priority is taken.
// Accounts and some other files of /etc are regular files, and accounts of several packages are all
// there.
//
// own are files that the image gets if no package brings them.
//
// The error is a *layer.UnfitError if no image can hold the packages.
func Merge(
	ctx context.Context, packages []Package, closure []store.Path, files Files, own ...OwnFile,
) (*Tree, error) {
	m := newMerger(files, closure)

	packages = slices.Clone(packages)
	slices.SortFunc(packages, func(a, b Package) int {
		return cmp.Or(
			cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name),
			slices.Compare(a.Outputs, b.Outputs),
		)
	})
	var outputs []store.Path
	for _, p := range packages {
		outputs = append(outputs, p.Outputs...)
	}
	done := make(map[store.Path]bool)
	for len(outputs) > 0 {
		var propagated []store.Path
		for _, output := range outputs {
			if done[output] {
				continue
			}
			done[output] = true
			more, err := m.output(ctx, output)
			if err != nil {
				return nil, fmt.Errorf("merging %s: %w", output, err)
			}
			propagated = append(propagated, more...)
		}
		slices.Sort(propagated)
		outputs = propagated
	}
	if err := m.modules(ctx, slices.Sorted(maps.Keys(done))); err != nil {
		return nil, fmt.Errorf("merging the modules that are needed: %w", err)
	}
	add := func(ctx context.Context) error { return m.own(ctx, own) }
	for _, complete := range []func(context.Context) error{m.complete, m.data, add, m.foreign} {
		if err := complete(ctx); err != nil {
			return nil, fmt.Errorf("completing the root directory: %w", err)
		}
	}
	if err := m.measure(ctx, m.root); err != nil {
		return nil, fmt.Errorf("measuring the root directory: %w", err)
	}
	return &Tree{m.sources, m.root, m.sections, m.environment, m.notes}, nil
}

// A merger puts packages into a root directory, that of the best priority first. Files that are
// there stay.
type merger struct {
	sources  sources
	root     *node
	entries  int
	sections []section
	etc      map[string][]string // where packages have the files of etcFiles, the best priority first

	environment map[string]string
	notes       []string
}

func newMerger(files Files, closure []store.Path) *merger {
	known := make(map[store.Path]bool, len(closure))
	for _, p := range closure {
		known[p] = true
	}
	etc := make(map[string][]string)
	for _, f := range etcFiles() {
		etc[f.name] = nil
	}
	return &merger{
		sources: sources{files, known, map[string]string{}}, root: skeleton(), etc: etc,
		environment: make(map[string]string),
	}
}

// output merges a store path, and returns those that it wants merged, too. A store path that is no
// directory has nothing to merge.
func (m *merger) output(ctx context.Context, p store.Path) ([]store.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if file, err := m.sources.lstat(ctx, string(p)); err != nil {
		return nil, err
	} else if file == nil {
		return nil, errors.New("it is not in the closure, or not in the store")
	}
	dir, err := m.sources.directory(ctx, string(p))
	if err != nil || dir == "" {
		return nil, err
	}
	if err := m.merge(ctx, m.root, dir); err != nil {
		return nil, err
	}
	return m.sources.named(ctx, p, propagatedFile)
}

// merge puts the content of dir, a resolved directory of the store, into n.
func (m *merger) merge(ctx context.Context, n *node, dir string) error {
	// Links in circles end here. Once is allowed, for a package whose usr is a link to ".".
	if slices.Contains(n.merged, dir) || n.repeats(dir) > 1 {
		return nil
	}
	return m.fill(ctx, n, dir)
}

// fill is merge without the check for circles.
func (m *merger) fill(ctx context.Context, n *node, dir string) error {
	n.merged = append(n.merged, dir)
	entries, err := m.sources.list(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, source := e.Name, dir+"/"+e.Name
		switch here := n.children[name]; {
		case leftOut(dir, name) || n == m.root && name == "nix": // nix is for the layers of the store
		case n.name == "etc" && m.isEtcFile(name):
			m.etc[name] = append(m.etc[name], source)
		case here != nil:
			err = m.collide(ctx, n, e, source)
		case !e.Type.IsDir():
			err = m.put(n, name, &node{link: source})
		case n.repeats(source) > 1:
			_, err = m.mkdir(n, name)
		default:
			err = m.put(n, name, &node{lazyDir: source, mode: 0o755, parent: n, name: path.Join(n.name, name)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collide merges file into the child of n that has its name already, if both are directories or
// links to directories. Otherwise that child stays. source is the file in a resolved directory of
// the store.
func (m *merger) collide(ctx context.Context, n *node, file File, source string) error {
	dir := source
	if !file.Type.IsDir() {
		var err error
		if dir, err = m.sources.directory(ctx, source); err != nil || dir == "" {
			return err
		}
	}
	here, err := m.open(ctx, n, file.Name)
	if err != nil || here == nil {
		return err
	}
	return m.merge(ctx, here, dir)
}

// open returns the directory name in n, for it to be changed. A link to a directory becomes a
// directory. open returns nil if name is neither.
func (m *merger) open(ctx context.Context, n *node, name string) (*node, error) {
	here := n.children[name]
	if here == nil {
		return nil, nil
	}
	if dir := here.lazyDir; dir != "" {
		here.lazyDir, here.children = "", make(map[string]*node)
		return here, m.fill(ctx, here, dir)
	}
	if here.isDir() {
		return here, nil
	}
	dir, err := m.sources.directory(ctx, here.link)
	// A directory that merge would refuse stays a link.
	if err != nil || dir == "" || n.repeats(dir) > 1 {
		return nil, err
	}
	sub, err := m.mkdir(n, name)
	if err != nil {
		return nil, err
	}
	return sub, m.merge(ctx, sub, dir)
}

func (m *merger) mkdir(n *node, name string) (*node, error) {
	sub := &node{children: map[string]*node{}, mode: 0o755, parent: n, name: path.Join(n.name, name)}
	return sub, m.put(n, name, sub)
}

func (m *merger) put(n *node, name string, child *node) error {
	if reason := m.count(n.name, name); reason != "" {
		return &layer.UnfitError{Path: cmp.Or(child.link, child.lazyDir, path.Join(n.name, name)), Reason: reason}
	}
	n.set(name, child)
	return nil
}

// count counts an entry of a directory of the image. It returns the reason why there can't be such
// an entry, or "".
func (m *merger) count(dir, name string) (unfit string) {
	if m.entries++; m.entries > maxEntries {
		return fmt.Sprintf("with it, the root directory has more than %d files", maxEntries)
	}
	return layer.Unfit(len(dir), name)
}

// measure counts the entries in lazy directories below n. Those of many entries become sections.
func (m *merger) measure(ctx context.Context, n *node) error {
	for _, child := range n.children {
		if child.lazyDir == "" {
			if err := m.measure(ctx, child); err != nil {
				return err
			}
			continue
		}
		before := m.entries
		if err := m.countAll(ctx, child.name, child.lazyDir); err != nil {
			return err
		}
		if entries := m.entries - before; entries >= minSection {
			m.sections = append(m.sections, section{child, entries})
		}
	}
	return nil
}

// countAll counts all entries below dir, a directory of the store that is called name in the image.
func (m *merger) countAll(ctx context.Context, name, dir string) error {
	entries, err := m.sources.list(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if leftOut(dir, e.Name) {
			continue
		}
		if reason := m.count(name, e.Name); reason != "" {
			return &layer.UnfitError{Path: dir + "/" + e.Name, Reason: reason}
		}
		if e.Type.IsDir() {
			if err := m.countAll(ctx, name+"/"+e.Name, dir+"/"+e.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// leftOut reports whether an image does without the file name in dir, a resolved directory of the
// store. Some files are for Nix alone. Others (info/dir, perllocal.pod) are in many packages, each
// with its own part of what should be in one file.
func leftOut(dir, name string) bool {
	switch name {
	case "nix-support", "propagated-build-inputs", "manifest.nix", "manifest.json", "log":
		// Only at the top of an output: bin/log is a program like any other.
		return path.Dir(dir) == store.Dir
	case "dir":
		return path.Base(dir) == "info"
	}
	return name == "perllocal.pod"
}
