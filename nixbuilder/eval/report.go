package eval

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// defaultPriority is what nixpkgs and Nix give a package that says nothing.
const defaultPriority = 5

// A report is what the expression answers: that it has begun, what the set is, and then for each name. See packages.nix.
type report struct {
	Begun  bool
	Set    string
	Config bool // whether the set takes an argument config

	Name    string
	Path    []string
	Failure string

	Similar    []string // of "not-found": attributes of the set at Path
	Candidates []string // of "ambiguous"
	Exists     bool     // of "inside-package": whether the package at Path has such an attribute
	Type       string   // of "not-package"
	Attributes []string // of a set, in a walk
	Recurse    bool

	Pname, Version, System, DrvPath string
	Outputs                         []string
	OutPaths                        map[string]string
	Output                          string // that was named
	OutputsToInstall                []string
	MainProgram, Description        string
	Priority                        *int
	Licenses                        []string
	Image                           *struct {
		Settings *Image
		Faults   []string
	}
}

// result judges a report. Nothing in it is to be trusted: the set has computed it.
func (r *report) result() Result {
	switch r.Failure {
	case "":
		return r.pkg()
	case "not-found":
		return Result{Failure: &Failure{
			Kind:       NotFound,
			Message:    fmt.Sprintf("there is no package %s", r.Name),
			NearMisses: nearMisses(r.Name, r.Path, r.Similar),
		}}
	case "ambiguous":
		candidates := make([]string, len(r.Candidates))
		for i, attr := range r.Candidates {
			candidates[i] = strings.Join(append(slices.Clone(r.Path), attr), ".")
		}
		return Result{Failure: &Failure{
			Kind:       Ambiguous,
			Message:    fmt.Sprintf("%s may be any of %s", r.Name, strings.Join(candidates, ", ")),
			Candidates: candidates,
		}}
	case "inside-package":
		return r.insidePackage()
	case "not-package":
		result := failed(NotPackage, "%s is of type %s, not a package", r.Name, typeName(r.Type))
		result.Failure.Attributes, result.Failure.Recurse = r.Attributes, r.Recurse
		return result
	case "throws":
		return failed(Throws, "%s refuses to be evaluated", r.Name)
	}
	return failed(Crashes, "%s gives no result", r.Name)
}

// insidePackage is the failure of a name that leads into a package, but not to one of its outputs.
func (r *report) insidePackage() Result {
	at := strings.Join(r.Path, ".")
	if name, ok := askable(r.Path); ok {
		at = name
	}
	outputs := at + " has no outputs"
	if n := len(r.Outputs); n > 0 {
		plural := ""
		if n > 1 {
			plural = "s"
		}
		outputs = fmt.Sprintf("%s has the output%s %s", at, plural, strings.Join(slices.Sorted(slices.Values(r.Outputs)), ", "))
	}
	if r.Exists {
		return failed(NotPackage, "%s is a part of the package %s, not a package: %s", r.Name, at, outputs)
	}
	result := failed(NotFound, "there is no package %s: %s", r.Name, outputs)
	result.Failure.NearMisses = nearMisses(r.Name, r.Path, r.Outputs)
	return result
}

// placeholder is what stands for the path of an output in derivations until that is known.
var placeholder = regexp.MustCompile(`^/[0-9a-df-np-sv-z]{52}$`)

func (r *report) pkg() Result {
	derivation, err := store.ParsePath(r.DrvPath)
	if err != nil || !strings.HasSuffix(r.DrvPath, ".drv") {
		return failed(NotPackage, "%s has no derivation", r.Name)
	}
	outputs := make(map[string]store.Path)
	for name, path := range r.OutPaths {
		if placeholder.MatchString(path) {
			outputs[name] = ""
		} else if outputs[name], err = store.ParsePath(path); err != nil {
			return failed(NotPackage, "the output %s of %s has no store path", name, r.Name)
		}
	}
	if len(r.OutputsToInstall) == 0 {
		return failed(NotPackage, "%s has no output to install", r.Name)
	}
	for _, name := range r.OutputsToInstall {
		if _, ok := outputs[name]; !ok {
			return failed(NotPackage, "%s has no output %s, which is to be installed", r.Name, name)
		}
	}
	var image *Image
	if r.Image != nil {
		faults := append(r.Image.Faults, r.Image.Settings.faults()...)
		if len(faults) > 0 {
			return failed(BadImage, "%s: %s", r.Name, strings.Join(faults, "; "))
		}
		image = r.Image.Settings
	}
	priority := defaultPriority
	if r.Priority != nil {
		priority = *r.Priority
	}
	return Result{Package: &Package{
		Attr: r.Path, Output: r.Output, Derivation: derivation, Outputs: outputs, OutputsToInstall: r.OutputsToInstall, System: r.System,
		Pname: r.Pname, Version: r.Version, MainProgram: r.MainProgram, Description: r.Description, Priority: priority, Licenses: r.Licenses, Image: image,
	}}
}

// faults names the settings whose types are right, but that no image can have.
func (i *Image) faults() (faults []string) {
	if i == nil {
		return nil
	}
	port := regexp.MustCompile(`^[0-9]{1,5}(/(tcp|udp|sctp))?$`)
	for _, p := range i.ExposedPorts {
		if !port.MatchString(p) {
			faults = append(faults, fmt.Sprintf("passthru.image.exposedports has %q, which is not a port, such as 80 or 53/udp", p))
		}
	}
	for name := range i.Env {
		if name == "" || strings.Contains(name, "=") {
			faults = append(faults, fmt.Sprintf("passthru.image.env has %q, which is no name of a variable", name))
		}
	}
	slices.Sort(faults)
	return faults
}
