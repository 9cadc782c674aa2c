package rootfs

import (
	"cmp"
	"context"
	"path"
)

// nixLD is where nixpkgs' nix-ld has its program. It stands in for the loader of programs that were
// not made with Nix: it starts the one that NIX_LD names, with the libraries of NIX_LD_LIBRARY_PATH,
// and does not hand these on.
const nixLD = "libexec/nix-ld"

// libraryPath is where the libraries of packages are, in images with nix-ld.
const libraryPath = "/lib"

// A loader is what starts dynamically linked programs of a platform with glibc.
type loader struct {
	name  string // in the package
	place string // where programs name it that were not made with Nix
	libs  string // the directory of libraries in Debian's packages
}

func loaders() []loader {
	return []loader{
		{"lib/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu"},
		{"lib/ld-linux-aarch64.so.1", "lib/ld-linux-aarch64.so.1", "lib/aarch64-linux-gnu"},
	}
}

// foreign puts a loader where programs look for it that were not made with Nix, if a package brings
// glibc's: nix-ld if a package brings that, too, and otherwise glibc's own, unless something is
// there. Nix-ld goes before glibc's, which searches its own store path alone in nixpkgs. It is told
// by variables what to start. LD_LIBRARY_PATH would also have Nix's programs load other libraries
// than their own.
//
// The two libraries by which installers tell what will run are in /usr/lib, too.
func (m *merger) foreign(ctx context.Context) error {
	for _, l := range loaders() {
		own, err := m.file(ctx, l.name)
		if err != nil {
			return err
		}
		if own == "" {
			continue
		}
		shim, err := m.file(ctx, nixLD)
		if err != nil {
			return err
		}
		if err := m.link(ctx, l.place, cmp.Or(shim, own), shim != ""); err != nil {
			return err
		}
		if shim != "" {
			m.environment["NIX_LD"], m.environment["NIX_LD_LIBRARY_PATH"] = own, libraryPath
		}
		for _, library := range []string{"libc.so.6", "libstdc++.so.6"} {
			if err := m.typical(ctx, library, "lib", l.libs); err != nil {
				return err
			}
		}
	}
	return nil
}

// typical puts a link to a library into /usr/lib. It is that of the first directory that has it.
func (m *merger) typical(ctx context.Context, library string, dirs ...string) error {
	for _, dir := range dirs {
		source, err := m.file(ctx, dir+"/"+library)
		if err != nil {
			return err
		}
		if source != "" {
			return m.link(ctx, "usr/lib/"+library, source, false)
		}
	}
	return nil
}

// link puts a link to a file of the store at name, in place of what is there only if replace is
// true. It does nothing if what should be its directory is a file.
func (m *merger) link(ctx context.Context, name, source string, replace bool) error {
	here, err := m.file(ctx, name)
	if err != nil || here != "" && !replace {
		return err
	}
	dir, err := m.makeDir(ctx, path.Dir(name))
	if err != nil || dir == nil {
		return err
	}
	base := path.Base(name)
	switch there := dir.children[base]; {
	case there == nil:
		return m.put(dir, base, &node{link: source})
	case replace && !there.isDir():
		dir.set(base, &node{link: source})
	}
	return nil
}
