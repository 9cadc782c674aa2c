package eval

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// defaultPriority is what nixpkgs and Nix give a package that says nothing.
const defaultPriority = 5

// maxNearMisses is how many near misses a failure names.
const maxNearMisses = 3

// A report is what the expression answers: that it has begun, what the set is, and then for each name. See packages.nix.
type report struct {
	Begun bool
	Set   string

	Name    string
	Path    []string
	Failure string

	Similar    []string // of "not-found": attributes of the set at Path
	Candidates []string // of "ambiguous"
	Type       string   // of "not-package"
	Attributes []string // of a set, in a walk
	Recurse    bool

	Pname, Version, System, DrvPath string
	Outputs                         []string
	OutPaths                        map[string]string
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
	at := strings.Join(r.Path, ".")
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
			candidates[i] = join(r.Path, attr)
		}
		return Result{Failure: &Failure{
			Kind:       Ambiguous,
			Message:    fmt.Sprintf("%s may be any of %s", r.Name, strings.Join(candidates, ", ")),
			Candidates: candidates,
		}}
	case "inside-package":
		return failed(NotPackage, "%s is a part of the package %s, not a package", r.Name, at)
	case "not-package":
		result := failed(NotPackage, "%s is of type %s, not a package", r.Name, typeName(r.Type))
		result.Failure.Attributes, result.Failure.Recurse = r.Attributes, r.Recurse
		return result
	case "throws":
		return failed(Throws, "%s refuses to be evaluated", r.Name)
	}
	return failed(Crashes, "%s gives no result", r.Name)
}

func (r *report) pkg() Result {
	derivation, err := store.ParsePath(r.DrvPath)
	if err != nil || !strings.HasSuffix(r.DrvPath, ".drv") {
		return failed(NotPackage, "%s has no derivation", r.Name)
	}
	outputs := make(map[string]store.Path)
	for name, path := range r.OutPaths {
		if outputs[name], err = store.ParsePath(path); err != nil {
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
		Attr: r.Path, Derivation: derivation, Outputs: outputs, OutputsToInstall: r.OutputsToInstall, System: r.System,
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

// nearMisses are those attributes of the set at path that name may have meant, nearest first: a letter or two apart, or the beginning of one
// another.
func nearMisses(name string, path, attrs []string) []string {
	type miss struct {
		name     string
		distance int
	}
	wanted := strings.ToLower(name)
	var misses []miss
	for _, attr := range attrs {
		candidate := join(path, attr)
		lower := strings.ToLower(candidate)
		distance := editDistance(wanted, lower)
		if distance <= 1+len(attr)/5 || strings.HasPrefix(lower, wanted) || strings.HasPrefix(wanted, lower) {
			misses = append(misses, miss{candidate, distance})
		}
	}
	slices.SortFunc(misses, func(a, b miss) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, m := range misses[:min(len(misses), maxNearMisses)] {
		names = append(names, m.name)
	}
	return names
}

// editDistance is how many bytes must be inserted, removed or replaced to make b of a (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func join(path []string, attr string) string {
	return strings.Join(append(slices.Clone(path), attr), ".")
}
