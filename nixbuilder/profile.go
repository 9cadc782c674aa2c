package nixbuilder

import (
	"context"
	"maps"
	"slices"
	"strconv"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A profile is the root directory of an image: its packages, merged.
type profile struct {
	packages []rootfs.Package
	tree     *rootfs.Tree
}

// newProfile merges packages.
func newProfile(ctx context.Context, chosen packages, closure []store.PathInfo, files rootfs.Files) (profile, error) {
	var p profile
	for _, c := range chosen {
		p.packages = append(
			p.packages, rootfs.Package{Name: c.attribute(), Priority: c.Priority, Outputs: c.installed()},
		)
	}
	paths := make([]store.Path, len(closure))
	for i, info := range closure {
		paths[i] = info.Path
	}
	var err error
	p.tree, err = rootfs.Merge(ctx, p.packages, paths, files)
	return p, err
}

// key is that of the root layer's record: all that the root layer depends on.
func (p profile) key(compression layer.Compression) string {
	parts := []string{"profile", rootFormat, compression.String()}
	for _, pkg := range p.packages {
		parts = append(parts, pkg.Name, strconv.Itoa(pkg.Priority), joined(pkg.Outputs))
	}
	return records.Key(parts...)
}

// containerConfig says how the image runs: a shell where one was asked for, else the program of the
// one package that was; over that whatever packages say of their images.
func containerConfig(request names.Request, chosen packages, p profile, provenance map[string]string) v1.ImageConfig {
	env := map[string]string{"PATH": searchPath}
	if p.tree.HasCABundle() {
		env["SSL_CERT_FILE"] = "/" + rootfs.CABundle
	}
	config := v1.ImageConfig{Labels: map[string]string{}}
	var asked packages
	for _, c := range chosen {
		if c.asked {
			asked = append(asked, c)
		}
	}
	for _, c := range asked {
		image := c.Image
		if image == nil {
			continue
		}
		maps.Copy(env, image.Env)
		maps.Copy(config.Labels, image.Labels)
		for _, port := range image.ExposedPorts {
			if config.ExposedPorts == nil {
				config.ExposedPorts = make(map[string]struct{})
			}
			config.ExposedPorts[port] = struct{}{}
		}
	}
	switch {
	case request.Shell:
		config.Cmd = shellProgram(p)
	case asked.isOne():
		config.Cmd = mainProgram(asked[0], p)
		if image := asked[0].Image; image != nil {
			config.Entrypoint = image.Entrypoint
			if image.Cmd != nil || image.Entrypoint != nil {
				config.Cmd = image.Cmd
			}
			if image.User != nil {
				config.User = *image.User
			}
			if image.WorkingDir != nil {
				config.WorkingDir = *image.WorkingDir
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		config.Env = append(config.Env, name+"="+env[name])
	}
	maps.Copy(config.Labels, provenance)
	return config
}

func shellProgram(p profile) []string {
	for _, shell := range []string{"bash", "sh"} {
		if p.tree.HasProgram(shell) {
			return []string{"/bin/" + shell}
		}
	}
	return nil
}

func mainProgram(c chosen, p profile) []string {
	for _, program := range []string{c.MainProgram, c.Pname} {
		if p.tree.HasProgram(program) {
			return []string{"/bin/" + program}
		}
	}
	return nil
}
