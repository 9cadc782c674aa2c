package store

import (
	"fmt"
	"strings"

	"github.com/nix-community/go-nix/pkg/storepath"
)

// Dir is the directory of the store. Binary packages are bound to it, so it is not a setting.
const Dir = storepath.StoreDir

// hashLen is the length of the hash part of a store path's base name.
const hashLen = 32

// maxNameLen is Nix's own limit for the name part of a store path.
const maxNameLen = 211

// Path is a valid absolute store path, such as
// /nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-htop-3.2.2. Paths compare and sort as strings.
type Path string

// ParsePath checks that s is an absolute store path: /nix/store/, 32 digits of Nix's base 32, a
// dash, and a name of Nix's alphabet that does not begin with a dot. It refuses paths below a store
// path.
func ParsePath(s string) (Path, error) {
	sp, err := storepath.FromAbsolutePath(s)
	if err != nil {
		return "", fmt.Errorf("parsing store path: %w", err)
	}
	if sp.Name == "" || sp.Name[0] == '.' || len(sp.Name) > maxNameLen || sp.Absolute() != s {
		return "", fmt.Errorf("parsing store path: %q is not one", s)
	}
	return Path(s), nil
}

// Base returns the path without the store directory: hash, dash and name.
func (p Path) Base() string { return string(p[len(Dir)+1:]) }

// Name returns the path without the store directory and the hash: htop-3.2.2.
func (p Path) Name() string { return p.Base()[hashLen+1:] }

// Join is the text of paths, with a space between.
func Join(paths []Path) string {
	var b strings.Builder
	for i, p := range paths {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(p))
	}
	return b.String()
}

// PathInfo is what the store knows about a valid path.
type PathInfo struct {
	Path Path
	// NarSize is the size of the path's archive (NAR) in bytes. It is close to the size of its
	// files.
	NarSize int64
	// References are the paths that this one's files mention, sorted. A path may refer to itself.
	References []Path
}
