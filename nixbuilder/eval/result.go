package eval

import (
	"fmt"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A Result is what became of one name. Exactly one of its fields is set.
type Result struct {
	Package *Package `json:"package,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
}

// A Package is a derivation that was found in a package set, with what the set says of it. Texts
// have up to 256 bytes and lists up to 64 entries, unless a field says otherwise.
type Package struct {
	// Attr is the attribute path in the set, in the set's own spelling. Different paths may lead to
	// the same Derivation.
	Attr []string `json:"attr"`
	// Output is the output that the name ended with, as in openssl.dev, and the only one to
	// install; empty: the name was the package's.
	Output     string     `json:"output,omitempty"`
	Derivation store.Path `json:"derivation"`
	// Outputs are the store paths of all outputs, by name. A path is empty if only building tells
	// it: if the output is content-addressed, or made of what is.
	Outputs map[string]store.Path `json:"outputs"`
	// OutputsToInstall names the outputs that a user of the package gets, in the package's order;
	// at least one.
	OutputsToInstall []string `json:"outputsToInstall"`
	// System is the platform that it runs on, such as x86_64-linux.
	System string `json:"system"`
	// Pname and Version are empty where the package has none.
	Pname   string `json:"pname"`
	Version string `json:"version"`
	// MainProgram is the name of a file in its bin directory, empty if not known.
	MainProgram string `json:"mainProgram"`
	// Description ends with an ellipsis where it was longer than 4 KiB.
	Description string `json:"description"`
	// Priority decides between packages that have the same file: the lowest wins. It is 5 unless
	// the package says otherwise.
	Priority int `json:"priority"`
	// Licenses are short names, SPDX identifiers where the set has them, the first 64.
	Licenses []string `json:"licenses"`
	// Image is nil if the package sets nothing of its image.
	Image *Image `json:"image,omitempty"`
}

// Floats reports whether only building tells the store paths of OutputsToInstall.
func (p *Package) Floats() bool {
	return slices.ContainsFunc(p.OutputsToInstall, func(output string) bool { return p.Outputs[output] == "" })
}

// An Image is what a package sets of the image that it is in, as passthru.image. A nil field is not
// set. As JSON, all of it has up to 64 KiB.
type Image struct {
	Entrypoint []string `json:"entrypoint"`
	Cmd        []string `json:"cmd"`
	// Env has no control characters.
	Env  map[string]string `json:"env"`
	User *string           `json:"user"`
	// WorkingDir is absolute and clean.
	WorkingDir *string           `json:"workingdir"`
	Labels     map[string]string `json:"labels"`
	// ExposedPorts are port numbers, from 1 on, with an optional protocol: 80, 53/udp.
	ExposedPorts []string `json:"exposedports"`
}

// Kind says why a name gives no package.
type Kind string

// The kinds of failure.
const (
	NotFound    Kind = "not found"     // the set has no such attribute
	Ambiguous   Kind = "ambiguous"     // several attributes differ from the name in case only
	NotPackage  Kind = "not a package" // a function, an attribute set, a part of a package that is no output, ...
	Unfree      Kind = "unfree"        // the set refuses it for its license
	Broken      Kind = "broken"        // the set refuses it as broken
	Insecure    Kind = "insecure"      // the set refuses it for known vulnerabilities
	Unsupported Kind = "unsupported"   // the set refuses it for this platform
	Throws      Kind = "throws"        // the set refuses it for another reason
	Crashes     Kind = "crashes"       // a fault in the package's own expressions, such as a type error
	BadImage    Kind = "bad image"     // passthru.image has unknown keys, or values that no image can have
	TooLong     Kind = "too long"      // it says more of itself than an image may have
	Unfetched   Kind = "unfetched"     // what it is made of could not be fetched
	Limit       Kind = "limit"         // evaluating it takes too much memory, processor time or output
)

// A Failure says why a name gives no package. Its texts are fit for clients: they carry no path of
// the host, and no more than 2 KiB each.
type Failure struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
	// Candidates are the attributes that an ambiguous name may mean, sorted, the first 64.
	Candidates []string `json:"candidates,omitempty"`
	// NearMisses are up to three names that may have been meant by one that was not found, as
	// clients can ask for them, the likeliest first.
	NearMisses []string `json:"nearMisses,omitempty"`
	// Transient says that evaluating the package may succeed on another day: it could fetch
	// something, or was not allowed to.
	Transient bool `json:"-"`

	// Attributes are those of a set that is not a package. Recurse says that the set declares
	// packages among them (recurseForDerivations). Only Walk tells.
	Attributes []string `json:"-"`
	Recurse    bool     `json:"-"`

	needs store.Path // the derivation that its evaluation stopped at
}

// Cacheable reports whether evaluating the same package set again must give the same result. A
// package that ran into a limit may succeed on another day, and so may one that fetches.
func (r Result) Cacheable() bool {
	return r.Failure == nil || r.Failure.Kind != Limit && !r.Failure.Transient
}

func failed(kind Kind, format string, args ...any) Result {
	return Result{Failure: &Failure{Kind: kind, Message: cut(fmt.Sprintf(format, args...), maxMessage)}}
}

// A SourceError means that a package set cannot be used at all: it does not parse, it fails before
// any package is looked at, or it is not an attribute set. Its text carries no path of the host.
type SourceError struct {
	Message string
	// Limit says that the set took too much memory, processor time or output, so trying again may
	// help.
	Limit bool
	// Unfetched says that something that the set fetches could not be fetched. Later it may be.
	Unfetched bool
	// Setup says that the fault is neither the set's nor the client's: this registry evaluates it
	// with too old a Nix, or with a config that it doesn't take.
	Setup bool

	needs store.Path // the derivation that it stopped at
}

func (e *SourceError) Error() string { return "evaluating the package set: " + e.Message }
