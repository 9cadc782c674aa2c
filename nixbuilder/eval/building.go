package eval

import (
	"fmt"
	"regexp"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// stopsAt is how Nix says, in one version or another, that a set has to read what a derivation would make: the derivation is not in the store, as nothing is
// written, or may not be built.
var stopsAt = regexp.MustCompile(`^(?:path '(?:/nix/store/)?([^/' ]+\.drv)' is not valid|` +
	`cannot build '/nix/store/([^/'^]+\.drv)(?:\^[^']*)?' during evaluation)`)

// neededDerivation is the derivation that an evaluation stopped at, empty if that is not what an error is about.
func neededDerivation(message string) store.Path {
	found := stopsAt.FindStringSubmatch(message)
	if found == nil {
		return ""
	}
	path, err := store.ParsePath(store.Dir + "/" + found[1] + found[2])
	if err != nil {
		return ""
	}
	return path
}

// explainNeeds says in plain words what who, a package or the set, needs that is not to be had here. Other messages stay as they are.
func explainNeeds(who, message string) string {
	if neededDerivation(message) != "" {
		return who + " needs import from derivation, which is off: nix.importfromderivation of this registry can switch it on"
	}
	switch found := experimental.FindStringSubmatch(message); {
	case found == nil:
		return message
	case found[1] == "impure-derivations":
		return who + " is made of an impure derivation, which this registry does not build"
	case found[1] == "ca-derivations":
		return who + " is made of a content-addressed derivation, which this registry does not build"
	default:
		return fmt.Sprintf("%s needs the experimental feature %s of Nix, which is off", who, found[1])
	}
}

// experimental is how Nix says that it has something, but not switched on.
var experimental = regexp.MustCompile(`experimental Nix feature '([a-z0-9-]+)' is disabled`)
