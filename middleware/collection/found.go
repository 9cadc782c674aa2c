package collection

import (
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Found is what a run may delete. It is not safe for concurrent use.
type found struct {
	lists map[string]*remaining
	blobs set
	rest  bool
}

// Remaining are the candidates of a repository that are left.
type remaining struct{ manifests, layers set }

func (f *found) add(repository string, of candidates) {
	if len(of.Manifests)+len(of.Layers) == 0 {
		return
	}
	r := &remaining{make(set), make(set)}
	for _, dgst := range of.Manifests {
		r.manifests.add(dgst)
		f.blobs.add(dgst)
	}
	for _, dgst := range of.Layers {
		r.layers.add(dgst)
		f.blobs.add(dgst)
	}
	f.lists[repository] = r
}

// leaveOut leaves out digests that a repository needs: their blobs, and their links there.
func (f *found) leaveOut(repository string, kept set) {
	for k := range kept {
		delete(f.blobs, k)
	}
	list := f.lists[repository]
	if list == nil {
		return
	}
	for k := range kept {
		delete(list.manifests, k)
		delete(list.layers, k)
	}
	if len(list.manifests)+len(list.layers) == 0 {
		delete(f.lists, repository)
	}
}

// leaveOutAll leaves out digests altogether.
func (f *found) leaveOutAll(kept set) {
	for repository := range f.lists {
		f.leaveOut(repository, kept)
	}
	f.leaveOut("", kept)
}

func (r *remaining) has(dgst digest.Digest) bool {
	return r != nil && (r.manifests.has(dgst) || r.layers.has(dgst))
}

func (r *remaining) candidates() candidates {
	if r == nil {
		return candidates{}
	}
	return candidates{Manifests: r.manifests.digests(), Layers: r.layers.digests()}
}

// report has the repositories, and no blobs yet.
func (f *found) report() Report {
	var report Report
	for name, list := range f.lists {
		report.Repositories = append(report.Repositories, Repository{
			Name: name, Manifests: list.manifests.digests(), Links: len(list.layers),
		})
	}
	slices.SortFunc(report.Repositories, func(a, b Repository) int { return strings.Compare(a.Name, b.Name) })
	return report
}
