package eval

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// defaultPriority is what nixpkgs and Nix give a package that says nothing.
const defaultPriority = 5

// These bound what a package may say of itself, in bytes and entries. All of it is stored, and most
// of it is in images. What only people read is cut.
const (
	maxField       = 256
	maxDescription = 4 << 10
	maxEntries     = 64
	maxSettings    = 64 << 10 // of passthru.image, as JSON
)

// A report is one answer of the expression (see packages.nix): first that it has begun, then what
// the set is, and then one for each name.
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
	Output                          string // the one that was named
	OutputsToInstall                []string
	MainProgram, Description        string
	Priority                        *int
	Licenses                        []string
	Image                           *struct {
		Settings *Image
		Faults   []string
	}
}

// result turns a report into a Result. Nothing in a report is to be trusted: the set has computed
// it.
func (r *report) result() Result {
	switch r.Failure {
	case "":
		return r.pkg()
	case "not-found":
		result := failed(NotFound, "there is no package %s", r.Name)
		result.Failure.NearMisses = nearMisses(r.Name, r.Path, r.Similar)
		return result
	case "ambiguous":
		candidates := make([]string, min(len(r.Candidates), maxEntries))
		for i := range candidates {
			candidates[i] = cut(strings.Join(append(slices.Clone(r.Path), r.Candidates[i]), "."), maxField)
		}
		result := failed(Ambiguous, "%s may be any of %s", r.Name, strings.Join(candidates, ", "))
		result.Failure.Candidates = candidates
		return result
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
		outputs = fmt.Sprintf(
			"%s has the output%s %s", at, plural, strings.Join(slices.Sorted(slices.Values(r.Outputs)), ", "),
		)
	}
	if r.Exists {
		return failed(NotPackage, "%s is a part of the package %s, not a package: %s", r.Name, at, outputs)
	}
	result := failed(NotFound, "there is no package %s: %s", r.Name, outputs)
	result.Failure.NearMisses = nearMisses(r.Name, r.Path, r.Outputs)
	return result
}

// placeholder matches what stands for the path of an output in derivations until the path is known.
var placeholder = regexp.MustCompile(`^/[0-9a-df-np-sv-z]{52}$`)

func (r *report) pkg() Result {
	derivation, err := store.ParsePath(r.DrvPath)
	if err != nil || !strings.HasSuffix(r.DrvPath, ".drv") {
		return failed(NotPackage, "%s has no derivation", r.Name)
	}
	if fault := r.oversize(); fault != "" {
		return failed(TooLong, "%s: %s", r.Name, fault)
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
		faults := slices.Concat(r.Image.Faults[:min(len(r.Image.Faults), maxEntries)], r.Image.Settings.faults())
		if len(faults) > 0 {
			return failed(BadImage, "%s: %s", r.Name, strings.Join(faults, "; "))
		}
		image = r.Image.Settings
	}
	priority := defaultPriority
	if r.Priority != nil {
		priority = *r.Priority
	}
	licenses := slices.Clone(r.Licenses[:min(len(r.Licenses), maxEntries)]) // the rest is not kept in memory
	for i, license := range licenses {
		licenses[i] = cut(license, maxField)
	}
	return Result{Package: &Package{
		Attr:             r.Path,
		Output:           r.Output,
		Derivation:       derivation,
		Outputs:          outputs,
		OutputsToInstall: r.OutputsToInstall,
		System:           r.System,
		Pname:            r.Pname,
		Version:          r.Version,
		MainProgram:      r.MainProgram,
		Description:      cut(r.Description, maxDescription),
		Priority:         priority,
		Licenses:         licenses,
		Image:            image,
	}}
}

// oversize names something that an image needs and that is longer than it may be, with the limit;
// empty: nothing is.
func (r *report) oversize() string {
	for _, field := range []struct{ name, text string }{
		{"pname", r.Pname}, {"version", r.Version}, {"meta.mainProgram", r.MainProgram}, {"system", r.System},
	} {
		if len(field.text) > maxField {
			return fmt.Sprintf("its %s has %d bytes, %d are allowed", field.name, len(field.text), maxField)
		}
	}
	for _, list := range []struct {
		name    string
		entries int
	}{
		{"outputs", len(r.OutPaths)}, {"meta.outputsToInstall", len(r.OutputsToInstall)},
	} {
		if list.entries > maxEntries {
			return fmt.Sprintf("its %s has %d entries, %d are allowed", list.name, list.entries, maxEntries)
		}
	}
	for _, output := range slices.Sorted(maps.Keys(r.OutPaths)) {
		if len(output) > maxField {
			return fmt.Sprintf("the name of an output has %d bytes, %d are allowed", len(output), maxField)
		}
	}
	return ""
}

// cut shortens a text to so many bytes, or a few less, so that no letter is halved. The rest does
// not stay in memory.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(strings.Clone(text[:most-len("…")]), "") + "…"
}

// faults names the settings that have the right type but that no image can have.
func (i *Image) faults() (faults []string) {
	if i == nil {
		return nil
	}
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf("passthru.image"+format, args...))
	}
	if size := i.size(); size > maxSettings {
		fault(" has %d bytes as JSON, %d are allowed", size, maxSettings)
		return faults // which would be many
	}
	for _, p := range i.ExposedPorts {
		if !isPort(p) {
			fault(".exposedports has %.100q, which is not a port from 1 to 65535, such as 80 or 53/udp", p)
		}
	}
	for name, value := range i.Env {
		switch {
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == '=' || unicode.IsControl(r) }):
			fault(".env has %.100q, which is no name of a variable", name)
		case strings.ContainsFunc(value, unicode.IsControl):
			fault(".env has a line break or another control character in %.100s", name)
		}
	}
	for name, value := range i.Labels {
		if size := len(name) + len(value); size > image.MaxLabel {
			fault(".labels has %d bytes in %.100q, with the name, %d are allowed: clients take no more", size, name,
				image.MaxLabel)
		}
	}
	if user := i.User; user != nil && strings.ContainsFunc(*user, unicode.IsControl) {
		fault(".user has a control character: %.100q", *user)
	}
	if dir := i.WorkingDir; dir != nil &&
		(!path.IsAbs(*dir) || path.Clean(*dir) != *dir || strings.ContainsFunc(*dir, unicode.IsControl)) {
		fault(
			".workingdir is %.100q, which is not an absolute path without dots and doubled slashes, such as /srv",
			*dir,
		)
	}
	slices.Sort(faults)
	return faults
}

// size is the size of all settings as JSON, which is how images have them.
func (i *Image) size() int {
	text, _ := json.Marshal(i) // texts, and lists and maps of them, are JSON
	return len(text)
}

// port matches a number with an optional protocol.
var port = regexp.MustCompile(`^([1-9][0-9]{0,4})(/(tcp|udp|sctp))?$`)

func isPort(text string) bool {
	parts := port.FindStringSubmatch(text)
	if parts == nil {
		return false
	}
	number, err := strconv.Atoi(parts[1])
	return err == nil && number <= 65535
}
