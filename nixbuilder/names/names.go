package names

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// The meta-packages. They stand at the beginning of a name.
const (
	Shell = "shell"
	amd64 = "amd64"
	arm64 = "arm64"
)

// Request is what an image name asks for.
type Request struct {
	// Packages are the package names as they were spelled, sorted, each once. Empty only with
	// Shell.
	Packages []string
	// Shell is whether the image gets the operator's shell packages too.
	Shell bool
	// Arch is the OCI architecture that the name chose, or empty for the configured platforms.
	Arch string
}

// ErrOutside is that a name is not under the prefix: it can only be a pushed image's.
var ErrOutside = errors.New("name is not under the prefix of images made of packages")

// Parse reads a repository name. Prefix is a path of whole components without slashes at its ends
// ("" for none); maxPackages limits how many different packages a name may have. The name itself
// must be one that a registry accepts; what is a package is for the package set to say. The errors
// are ErrOutside or texts for the one who asked.
func Parse(name, prefix string, maxPackages int) (Request, error) {
	if prefix != "" {
		rest, found := strings.CutPrefix(name, prefix+"/")
		if !found {
			return Request{}, ErrOutside
		}
		name = rest
	}
	var r Request
	parts := strings.Split(name, "/")
	for len(parts) > 0 {
		switch meta := parts[0]; meta {
		case Shell:
			r.Shell = true
		case amd64, arm64:
			if r.Arch != "" && r.Arch != meta {
				return Request{}, errors.New("a name chooses one platform: amd64 and arm64 exclude each other")
			}
			r.Arch = meta
		default:
			r.Packages = slices.Clone(parts)
			slices.Sort(r.Packages)
			r.Packages = slices.Compact(r.Packages)
			parts = nil
			continue
		}
		parts = parts[1:]
	}
	for _, meta := range []string{Shell, amd64, arm64} {
		if slices.Contains(r.Packages, meta) {
			return Request{}, fmt.Errorf(
				"%q has a meaning of its own and stands before the packages: ask for %s/%s", meta, meta,
				strings.Join(slices.DeleteFunc(r.Packages, func(p string) bool { return p == meta }), "/"),
			)
		}
	}
	if slices.Contains(r.Packages, "") {
		return Request{}, errors.New("a package name is empty")
	}
	if len(r.Packages) == 0 && !r.Shell {
		return Request{}, fmt.Errorf("%q chooses a platform but no package: add package names after it", name)
	}
	if len(r.Packages) > maxPackages {
		return Request{}, fmt.Errorf("%d packages in one name, %d are allowed", len(r.Packages), maxPackages)
	}
	return r, nil
}

// String is the canonical spelling: Parse gives the same Request for it (without a prefix), and two
// names that ask for the same have the same one.
func (r Request) String() string {
	var parts []string
	if r.Arch != "" {
		parts = append(parts, r.Arch)
	}
	if r.Shell {
		parts = append(parts, Shell)
	}
	return strings.Join(append(parts, r.Packages...), "/")
}

// Policy is which packages clients may ask for. The zero value allows all.
type Policy struct {
	// Allow and Deny are globs over attribute paths, compared without regard to case and part by
	// part, as dots divide them: each part is in the syntax of path.Match, and ** stands for any
	// number of parts, none among them. Allow lists all that may be asked for, if it is not empty.
	// Deny wins, and its wildcards stand for dots, too.
	Allow, Deny []string
}

// Check tells whether the policy has the faults that path.Match would find, naming the glob.
func (p Policy) Check() error {
	var faults []error
	for _, glob := range slices.Concat(p.Allow, p.Deny) {
		for part := range strings.SplitSeq(glob, ".") {
			if _, err := path.Match(part, ""); err != nil {
				faults = append(faults, fmt.Errorf("%q is not a glob: %w", glob, err))
			}
		}
	}
	return errors.Join(faults...)
}

// Denies tells whether a package must not be served. The aliases are every name that it has
// (attribute path, its last component, package name), so that no other spelling gets around a
// denied one; id is the one that Allow is about.
func (p Policy) Denies(id string, aliases ...string) bool {
	denied := func(name string) bool { return matches(p.Deny, name) || matchesWhole(p.Deny, name) }
	if denied(id) || slices.ContainsFunc(aliases, denied) {
		return true
	}
	return len(p.Allow) > 0 && !matches(p.Allow, id)
}

// Named are the entries of Deny without wildcards: names of packages, which may have others.
func (p Policy) Named() (named []string) {
	for _, entry := range p.Deny {
		if entry != "" && !strings.ContainsAny(entry, `*?[\`) {
			named = append(named, entry)
		}
	}
	return named
}

func matches(globs []string, name string) bool {
	parts := strings.Split(strings.ToLower(name), ".")
	return slices.ContainsFunc(
		globs, func(glob string) bool { return matchParts(strings.Split(strings.ToLower(glob), "."), parts) },
	)
}

// matchParts takes time in proportion to both: clients choose names, of up to a hundred parts.
func matchParts(globs, parts []string) bool {
	at := make([]bool, len(parts)+1) // whether the globs so far match so many parts
	at[0] = true
	for _, glob := range globs {
		next := make([]bool, len(parts)+1)
		for n, ok := range at {
			switch {
			case glob == "**":
				next[n] = ok || n > 0 && next[n-1]
			case ok && n < len(parts) && matchPart(glob, parts[n]):
				next[n+1] = true
			}
		}
		at = next
	}
	return at[len(parts)]
}

func matchesWhole(globs []string, name string) bool {
	return slices.ContainsFunc(
		globs, func(glob string) bool { return matchPart(strings.ToLower(glob), strings.ToLower(name)) },
	)
}

func matchPart(glob, part string) bool {
	ok, err := path.Match(glob, part)
	return ok && err == nil
}
