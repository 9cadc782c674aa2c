package imagestore

import (
	"context"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// madeBytes bounds what records of manifests take in memory: some 100 bytes each.
const madeBytes = 1 << 20

// A madeRecord tells of which revision a manifest was built. Its key has the digest, so that who has
// pinned an image gets it again when garbage collection has taken it.
type madeRecord struct {
	Revision string `json:"revision"`
}

func madeKey(repository string, manifest digest.Digest) string {
	return records.Key(repository, manifest.String())
}

func (s *Store) rememberMade(
	ctx context.Context, repo distribution.Repository, manifest digest.Digest, revision string,
) error {
	key := madeKey(repo.Named().Name(), manifest)
	if _, known, err := s.made.Get(ctx, key); known || err != nil {
		return err
	}
	return s.made.Put(ctx, key, madeRecord{revision})
}

// RevisionOf tells of which revision a manifest of a repository was built, or what a form was made
// of (Make). It is false for what was pushed, and for digests of nothing.
func (s *Store) RevisionOf(
	ctx context.Context, repository string, manifest digest.Digest,
) (revision string, ok bool, err error) {
	if form, ok, err := s.forms.Get(ctx, formKey(repository, manifest)); err != nil {
		return "", false, err
	} else if ok {
		manifest = form.Of
	}
	record, ok, err := s.made.Get(ctx, madeKey(repository, manifest))
	return record.Revision, ok, err
}
