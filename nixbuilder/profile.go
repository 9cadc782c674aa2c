package nixbuilder

import (
	"context"
	"strconv"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A profile is the root directory of an image: its packages, merged.
type profile struct {
	packages []rootfs.Package
	own      []rootfs.OwnFile
	tree     *rootfs.Tree
}

// newProfile merges packages. release is that of the package set.
func newProfile(
	ctx context.Context, chosen packages, release string, closure []store.PathInfo, files rootfs.Files,
) (profile, error) {
	p := profile{own: []rootfs.OwnFile{osRelease(release)}}
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
	p.tree, err = rootfs.Merge(ctx, p.packages, paths, files, p.own...)
	return p, err
}

// key is the key of the root layer's record, made of all that the root layer depends on.
func (p profile) key(compression compress.Compression) string {
	parts := []string{"profile", strconv.Itoa(rootFormat), compression.String()}
	for _, pkg := range p.packages {
		parts = append(parts, pkg.Name, strconv.Itoa(pkg.Priority), store.Join(pkg.Outputs))
	}
	for _, file := range p.own {
		parts = append(parts, file.Name, file.Content)
	}
	return records.Key(parts...)
}
