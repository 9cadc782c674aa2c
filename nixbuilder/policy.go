package nixbuilder

import (
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// denialsCached is how many bytes are in memory of what revisions deny.
const denialsCached = 1 << 20

// denials are the derivations that the names in Policy.Deny stand for, in one revision, on one
// platform. So a denied package is denied under any other name. They are a policy, not a wall:
// another derivation may do the same.
type denials map[denial]bool

// A denial is of a derivation, or of one output of it.
type denial struct {
	derivation store.Path
	output     string
}

func newDenials(named []string, results map[string]eval.Result) denials {
	denied := make(denials)
	for _, name := range named {
		if p := results[name].Package; p != nil { // it may be of no package: of a set, or what a package calls itself
			denied[denial{p.Derivation, p.Output}] = true
		}
	}
	return denied
}

func (d denials) weight() (bytes int) {
	const fields = 64
	for denied := range d {
		bytes += fields + len(denied.derivation) + len(denied.output)
	}
	return bytes
}

// has tells whether all that a user of the package gets is denied.
func (d denials) has(c chosen) bool {
	allowed := func(output string) bool { return !d[denial{c.Derivation, output}] }
	return d[denial{c.Derivation, ""}] || len(d) > 0 && !slices.ContainsFunc(c.OutputsToInstall, allowed)
}

// denied tells whether a policy keeps the package from being served. Denying a package denies its
// outputs, and what is in a set or inside a package. Allowing a package allows its outputs.
func (c chosen) denied(policy names.Policy, denied denials) bool {
	aliases := []string{c.name, c.Attr[len(c.Attr)-1], c.Pname, c.attribute()}
	for n := range c.Attr {
		aliases = append(aliases, strings.Join(c.Attr[:n+1], "."))
	}
	return denied.has(c) ||
		policy.Denies(strings.Join(c.Attr, "."), aliases...) && policy.Denies(c.attribute(), aliases...)
}
