package rootfs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// maxHops is how many symbolic links a name may lead over, as in Linux.
const maxHops = 40

// maxPropagatedBytes bounds the file in which a package names others.
const maxPropagatedBytes = 1 << 20

// sources reads what packages hold. Names are absolute. What lies outside the closure does not exist for it, so that a
// merge depends neither on what else is in the store nor on the rest of the machine.
type sources struct {
	dir     *os.Root // the store
	closure map[store.Path]bool
	// directories holds what directory found. Links that lead in circles make it asked the same over and over.
	directories map[string]string
}

// inStore is name relative to the store's directory. ok is false if it is not in the closure.
func (s sources) inStore(name string) (rel string, ok bool) {
	rel, ok = strings.CutPrefix(name, store.Dir+"/")
	base, _, _ := strings.Cut(rel, "/")
	return rel, ok && s.closure[store.Path(store.Dir+"/"+base)]
}

// lstat returns nil if name does not exist.
func (s sources) lstat(name string) (fs.FileInfo, error) {
	rel, ok := s.inStore(name)
	if !ok {
		return nil, nil
	}
	info, err := s.dir.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) {
		return nil, nil
	}
	return info, err
}

// resolve follows all symbolic links in name, also those of its directories. info is nil if that leads to nothing, in
// circles or out of the closure.
func (s sources) resolve(name string) (real string, info fs.FileInfo, err error) {
	todo := strings.Split(name, "/")
	for hops := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			real = real[:max(0, strings.LastIndexByte(real, '/'))]
			continue
		}
		parent := real
		real += "/" + c
		// What does not exist is walked on through: the directories above the closure are among it.
		if info, err = s.lstat(real); err != nil {
			return "", nil, err
		}
		if info == nil || info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		if hops++; hops > maxHops {
			return "", nil, nil
		}
		rel, _ := s.inStore(real)
		target, err := s.dir.Readlink(rel)
		if err != nil {
			return "", nil, err
		}
		if real = parent; strings.HasPrefix(target, "/") {
			real = ""
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	info, err = s.lstat(real)
	return real, info, err
}

// directory resolves name. It returns "" if that is no directory.
func (s sources) directory(name string) (string, error) {
	if real, known := s.directories[name]; known {
		return real, nil
	}
	real, info, err := s.resolve(name)
	if err != nil {
		return "", err
	}
	if info == nil || !info.IsDir() {
		real = ""
	}
	s.directories[name] = real
	return real, nil
}

// list returns the content of a directory, whose name must be resolved, in the order of the names' bytes.
func (s sources) list(name string) ([]fs.DirEntry, error) {
	rel, _ := s.inStore(name)
	f, err := s.dir.Open(rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, err
}

// propagated returns the store paths of the closure that output asks to be installed with it.
func (s sources) propagated(output store.Path) ([]store.Path, error) {
	real, info, err := s.resolve(string(output) + "/nix-support/propagated-user-env-packages")
	if err != nil || info == nil || !info.Mode().IsRegular() {
		return nil, err
	}
	if info.Size() > maxPropagatedBytes {
		return nil, fmt.Errorf("reading %s: larger than %d bytes", real, maxPropagatedBytes)
	}
	rel, _ := s.inStore(real)
	f, err := s.dir.Open(rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPropagatedBytes))
	if err != nil {
		return nil, err
	}
	var paths []store.Path
	for _, field := range strings.Fields(string(text)) {
		if p := store.Path(field); s.closure[p] {
			paths = append(paths, p)
		}
	}
	return paths, nil
}
