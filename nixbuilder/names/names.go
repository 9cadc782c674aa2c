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
	CI    = "ci"
	amd64 = "amd64"
	arm64 = "arm64"
)

// Request is what an image name asks for.
type Request struct {
	// Packages are the package names as they were spelled, sorted, each once. There are none only
	// if Shell or CI is true.
	Packages []string
	// Shell means that the image gets the operator's shell packages, too; CI those of its ci.
	Shell, CI bool
	// Arch is the OCI architecture that the name chose, or empty for the configured platforms.
	Arch string
}

// ErrOutside means that a name is not under the prefix: only a pushed image can have it.
var ErrOutside = errors.New("name is not under the prefix of images made of packages")

// Parse reads a repository name, which must be one that a registry accepts. prefix is a path of
// whole components, without slashes at its ends ("" for none). maxPackages bounds the different
// packages of a name. Parse does not know which packages there are: that is for the package set to
// say. The errors are ErrOutside or texts for clients.
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
		case CI:
			r.CI = true
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
	for _, meta := range []string{Shell, CI, amd64, arm64} {
		if slices.Contains(r.Packages, meta) {
			others := slices.DeleteFunc(r.Packages, func(p string) bool { return p == meta })
			return Request{}, fmt.Errorf(
				"%q has a meaning of its own and stands before the packages: ask for %s/%s",
				meta, meta, strings.Join(others, "/"),
			)
		}
	}
	if slices.Contains(r.Packages, "") {
		return Request{}, errors.New("a package name is empty")
	}
	if len(r.Packages) == 0 && !r.Shell && !r.CI {
		return Request{}, fmt.Errorf("%q chooses a platform but no package: add package names after it", name)
	}
	if len(r.Packages) > maxPackages {
		return Request{}, fmt.Errorf("%d packages in one name, %d are allowed", len(r.Packages), maxPackages)
	}
	return r, nil
}

// String returns the canonical spelling. Parse (without a prefix) gives the same Request for it.
// Two names that ask for the same have the same spelling.
func (r Request) String() string {
	var parts []string
	if r.Arch != "" {
		parts = append(parts, r.Arch)
	}
	if r.Shell {
		parts = append(parts, Shell)
	}
	if r.CI {
		parts = append(parts, CI)
	}
	return strings.Join(append(parts, r.Packages...), "/")
}

// Canonical returns the one spelling of all names that ask for the same, below the same prefix. It is
// the name itself if Parse has an error for it.
func Canonical(name, prefix string, maxPackages int) string {
	if prefix != "" {
		prefix += "/"
	}
	if isCanonical(strings.TrimPrefix(name, prefix)) { // as nearly always
		return name
	}
	r, err := Parse(name, strings.TrimSuffix(prefix, "/"), maxPackages)
	if err != nil {
		return name
	}
	return prefix + r.String()
}

// isCanonical tells whether a name without its prefix is its own canonical spelling: platform, Shell,
// CI, and packages in order.
func isCanonical(name string) bool {
	last, lastPart := -1, ""
	for part := range strings.SplitSeq(name, "/") {
		rank := 3
		if last < rank {
			switch part {
			case amd64, arm64:
				rank = 0
			case Shell:
				rank = 1
			case CI:
				rank = 2
			}
		}
		if rank < last || rank == last && (rank < 3 || part <= lastPart) {
			return false
		}
		last, lastPart = rank, part
	}
	return true
}

// Policy says which packages clients may ask for. The zero value allows all.
type Policy struct {
	// Allow and Deny are globs for attribute paths, without regard to case. They are compared part
	// by part, as dots divide them. Each part is in the syntax of path.Match, and ** stands for any
	// number of parts, or none. For example, python3Packages.* matches python3Packages.numpy. If
	// Allow is not empty, nothing else may be asked for. Deny has precedence, and its wildcards
	// stand for dots, too.
	Allow, Deny []string
}

// Check returns the faults that path.Match finds in the globs, joined.
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

// Denies reports whether a package must not be served. id is the name that is compared with Allow.
// aliases are all names that the package has (attribute path, its last component, package name): a
// package is denied by any of them, so no other spelling gets around Deny.
func (p Policy) Denies(id string, aliases ...string) bool {
	denied := func(name string) bool { return matches(p.Deny, name) || matchesWhole(p.Deny, name) }
	if denied(id) || slices.ContainsFunc(aliases, denied) {
		return true
	}
	return len(p.Allow) > 0 && !matches(p.Allow, id)
}

// Named returns the entries of Deny without wildcards. They are names of packages, which may have
// other names, too.
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
	return slices.ContainsFunc(globs, func(glob string) bool {
		return matchParts(strings.Split(strings.ToLower(glob), "."), parts)
	})
}

// matchParts takes time in proportion to the product of both lengths: clients choose names, of up
// to a hundred parts.
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
	name = strings.ToLower(name)
	return slices.ContainsFunc(globs, func(glob string) bool { return matchPart(strings.ToLower(glob), name) })
}

func matchPart(glob, part string) bool {
	ok, err := path.Match(glob, part)
	return ok && err == nil
}
