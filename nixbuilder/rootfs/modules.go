package rootfs

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// An interpreter is one in /bin.
type interpreter struct {
	language language
	program  string // its name in /bin
	home     string // the store path that it is in
	link     string // its file in /bin: nixpkgs' nodejs, with npm, has links to a node without
	version  string // empty if nothing tells it
	fromNix  bool   // it is nixpkgs' own
}

// modules lets the interpreters in /bin find the modules of packages, and those that these need:
// what outputs name in nix-support/propagated-build-inputs, followed to the end within the closure.
// Of these, the directories of modules alone are merged, after all that is there. So the programs
// of a module's modules are not in /bin.
func (m *merger) modules(ctx context.Context, outputs []store.Path) error {
	var found []interpreter
	var places []string
	for _, l := range languages() {
		i, ok, err := m.interpreter(ctx, l)
		if err != nil {
			return err
		}
		if ok {
			found = append(found, i)
			places = append(places, l.places(i)...)
		}
	}
	if len(found) == 0 {
		return nil
	}
	if err := m.mergeNeeded(ctx, outputs, places); err != nil {
		return err
	}
	for _, i := range found {
		if err := m.tell(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// interpreter finds that of a language.
func (m *merger) interpreter(ctx context.Context, l language) (_ interpreter, ok bool, err error) {
	for _, program := range l.programs {
		here := m.root.children["bin"].children[program]
		if here == nil || here.link == "" {
			continue
		}
		real, file, err := m.sources.resolve(ctx, here.link)
		if err != nil {
			return interpreter{}, false, err
		}
		rel, inStore := m.sources.inStore(real)
		if file == nil || !inStore {
			continue
		}
		base, _, _ := strings.Cut(rel, "/")
		_, name, _ := strings.Cut(base, "-")
		i := interpreter{
			language: l, program: program, home: store.Dir + "/" + base, link: here.link,
			version: cmp.Or(l.version(path.Base(real)), l.version(name)),
		}
		if l.nixMark != "" {
			_, mark, err := m.sources.resolve(ctx, i.home+"/"+l.places(i)[0]+"/"+l.nixMark)
			if err != nil {
				return interpreter{}, false, err
			}
			i.fromNix = mark != nil
		}
		return i, true, nil
	}
	return interpreter{}, false, nil
}

// mergeNeeded merges some directories of the store paths that outputs need, and of those that these
// need.
func (m *merger) mergeNeeded(ctx context.Context, outputs []store.Path, places []string) error {
	known := make(map[store.Path]bool, len(outputs))
	for _, output := range outputs {
		known[output] = true
	}
	for len(outputs) > 0 {
		var needed []store.Path
		for _, output := range outputs {
			if err := ctx.Err(); err != nil {
				return err
			}
			named, err := m.sources.named(ctx, output, neededFile)
			if err != nil {
				return err
			}
			for _, p := range named {
				if !known[p] {
					known[p] = true
					needed = append(needed, p)
				}
			}
		}
		slices.Sort(needed)
		for _, p := range needed {
			for _, place := range places {
				if err := m.mergePlace(ctx, p, place); err != nil {
					return fmt.Errorf("merging %s of %s: %w", place, p, err)
				}
			}
		}
		outputs = needed
	}
	return nil
}

// mergePlace merges a directory of a store path, if it is there, into that of the same name.
func (m *merger) mergePlace(ctx context.Context, p store.Path, place string) error {
	dir, err := m.sources.directory(ctx, string(p)+"/"+place)
	if err != nil || dir == "" {
		return err
	}
	parent, err := m.makeDir(ctx, path.Dir(place))
	if err != nil || parent == nil {
		return err
	}
	base := path.Base(place)
	if parent.children[base] == nil {
		return m.put(parent, base, &node{lazyDir: dir, mode: 0o755, parent: parent, name: path.Join(parent.name, base)})
	}
	here, err := m.open(ctx, parent, base)
	if err != nil || here == nil {
		return err
	}
	return m.merge(ctx, here, dir)
}

// tell sets the variables of an interpreter, if there are modules that it does not bring itself,
// and notes which ones are for other versions.
func (m *merger) tell(ctx context.Context, i interpreter) error {
	var visible []string
	for _, place := range i.language.places(i) {
		here, err := m.lookUp(ctx, place)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(here.dirs, func(dir string) bool { return !i.owns(dir) }) {
			visible = append(visible, "/"+place)
		}
	}
	if len(visible) > 0 {
		maps.Copy(m.environment, i.language.variables(i, visible))
	}
	return m.noteOthers(ctx, i)
}

// owns reports whether an interpreter brings a directory of the store.
func (i interpreter) owns(dir string) bool {
	ofLink := strings.TrimSuffix(i.link, "/bin/"+i.program)
	return strings.HasPrefix(dir, i.home+"/") || strings.HasPrefix(dir, ofLink+"/")
}

// mostNoted is how many other versions a note names.
const mostNoted = 3

// noteOthers notes for which other versions of an interpreter there are modules.
func (m *merger) noteOthers(ctx context.Context, i interpreter) error {
	dir, below, versioned := strings.Cut(i.language.versions, "*")
	if !versioned || i.version == "" {
		return nil
	}
	all, err := m.lookUp(ctx, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	others := make(map[string]bool)
	for _, dir := range all.dirs {
		entries, err := m.sources.list(ctx, dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			version := i.language.version(e.Name)
			if version == "" || version == i.version || others[version] || !e.Type.IsDir() {
				continue
			}
			modules, err := m.sources.directory(ctx, dir+"/"+e.Name+below)
			if err != nil {
				return err
			}
			if modules != "" {
				others[version] = true
			}
		}
	}
	if len(others) == 0 {
		return nil
	}
	named := slices.Sorted(maps.Keys(others))
	named = named[:min(len(named), mostNoted)]
	m.notes = append(m.notes, fmt.Sprintf(
		"/bin/%s finds the modules for %s, not those for %s", i.program, i.version, strings.Join(named, ", "),
	))
	return nil
}
