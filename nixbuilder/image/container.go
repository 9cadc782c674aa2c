package image

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// searchPath is where programs are in every image. Packages are merged into /bin and /sbin; the
// others are for what users put on top.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Package is one of the packages in an image, as far as the image's documents tell of it.
type Package struct {
	// Name is its attribute path in the package set, with the output that was named.
	Name    string
	Version string
	// Paths are the store paths that are merged into the root directory.
	Paths []store.Path
	// Derivation is the same for outputs of one package.
	Derivation store.Path
	// Asked says that the client asked for it, not the operator.
	Asked bool
	// MainProgram and Pname are names of files in /bin, or are empty. The first that is there runs.
	MainProgram, Pname string
	// Settings are nil if the package says nothing of its image.
	Settings *Settings
}

// Settings are what a package says of the image that it is in, as passthru.image. A nil field is
// not set.
type Settings struct {
	Entrypoint, Cmd []string
	Env             map[string]string
	User            *string
	WorkingDir      *string
	Labels          map[string]string
	ExposedPorts    []string // 80, 53/udp
}

// A Root is an image's root directory.
type Root interface {
	// HasProgram tells whether there is a file of that name in /bin.
	HasProgram(name string) bool
	// Environment are the variables by which programs find what is in it.
	Environment() map[string]string
	// Notes are sentences about what some of its programs don't find.
	Notes() []string
	// User returns a user with numbers in the place of names. The error says what is missing (see
	// rootfs.Tree.User).
	User(spec string) (string, error)
}

// A UserError means that a package runs as a user whom its image does not have.
type UserError struct {
	// Package is its attribute path.
	Package string
	User    string
	Cause   error
}

func (e *UserError) Error() string {
	return fmt.Sprintf(
		"passthru.image.user of %s is %.100q, %v: a package's etc/passwd and etc/group can bring it, and numbers need no account",
		e.Package, e.User, e.Cause,
	)
}

// Container says how an image runs: a shell where one was asked for, else the program of the one
// package that was asked for. What packages say of their images comes over that: all of them may
// add to the environment and the labels, those that were asked for over the others, and to the
// ports if they were asked for; the only one decides the rest. The labels of the image's provenance
// come last. The error is a *UserError.
func Container(
	shell bool, packages []Package, root Root, provenance map[string]string,
) (v1.ImageConfig, error) {
	env := root.Environment()
	env["PATH"] = searchPath
	config := v1.ImageConfig{Labels: map[string]string{}}
	if notes := root.Notes(); len(notes) > 0 {
		label(config.Labels, map[string]string{LabelNotes: strings.Join(notes, "; ")})
	}
	var asked, others []Package
	for _, p := range packages {
		if p.Asked {
			asked = append(asked, p)
		} else {
			others = append(others, p)
		}
	}
	for _, p := range slices.Concat(others, asked) {
		if p.Settings != nil {
			p.Settings.add(&config, env, p.Asked)
		}
	}
	switch {
	case shell:
		config.Cmd = firstProgram(root, "bash", "sh")
	case isOne(asked):
		config.Cmd = firstProgram(root, asked[0].MainProgram, asked[0].Pname)
		if asked[0].Settings != nil {
			if err := asked[0].decide(&config, root); err != nil {
				return v1.ImageConfig{}, err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		config.Env = append(config.Env, name+"="+env[name])
	}
	label(config.Labels, provenance)
	return config, nil
}

// add adds what a package may say among others. One that is in many images whatever they serve does
// not say which ports.
func (s *Settings) add(config *v1.ImageConfig, env map[string]string, asked bool) {
	maps.Copy(env, s.Env)
	maps.Copy(config.Labels, s.Labels)
	if !asked {
		return
	}
	for _, port := range s.ExposedPorts {
		if config.ExposedPorts == nil {
			config.ExposedPorts = make(map[string]struct{})
		}
		config.ExposedPorts[port] = struct{}{}
	}
}

// decide sets what the only package that was asked for may say.
func (p Package) decide(config *v1.ImageConfig, root Root) error {
	s := p.Settings
	config.Entrypoint = s.Entrypoint
	if s.Cmd != nil || s.Entrypoint != nil {
		config.Cmd = s.Cmd
	}
	if s.WorkingDir != nil {
		config.WorkingDir = *s.WorkingDir
	}
	if s.User == nil || *s.User == "" {
		return nil
	}
	user, err := root.User(*s.User)
	if err != nil {
		return &UserError{p.Name, *s.User, err}
	}
	config.User = user
	return nil
}

// isOne tells whether there is one package, if only by its outputs.
func isOne(packages []Package) bool {
	return len(packages) > 0 &&
		!slices.ContainsFunc(packages, func(p Package) bool { return p.Derivation != packages[0].Derivation })
}

// firstProgram is the command that runs the first of several programs that is there.
func firstProgram(root Root, programs ...string) []string {
	for _, program := range programs {
		if root.HasProgram(program) {
			return []string{"/bin/" + program}
		}
	}
	return nil
}
