package imagestore

import (
	"context"
	"maps"
	"slices"

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
	// Repository and Digest are those in the key, which is a hash.
	Repository string        `json:"repository,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
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
	return s.made.Put(ctx, key, madeRecord{revision, repo.Named().Name(), manifest})
}

// keepMade writes the records of an image's manifests anew, as a tag of it is removed: from then on
// they count as old.
func (s *Store) keepMade(ctx context.Context, repo distribution.Repository, image Image) error {
	if image.Digest == "" {
		return nil
	}
	manifests := []digest.Digest{image.Digest}
	if image.Index {
		parts, err := s.PartsOf(ctx, repo, image.Digest)
		if err != nil {
			return err
		}
		manifests = append(manifests, parts.Children...)
	}
	name := repo.Named().Name()
	for _, manifest := range manifests {
		key := madeKey(name, manifest)
		record, known, err := s.made.Fresh(ctx, key)
		if err != nil {
			return err
		}
		if !known {
			record.Revision = image.Revision
		}
		record.Repository, record.Digest = name, manifest
		if err := s.made.Put(ctx, key, record); err != nil {
			return err
		}
	}
	return nil
}

// Built tells which image that was built a digest stands for: of a form, the one that it is made of. It
// is false for what was pushed.
func (s *Store) Built(ctx context.Context, repository string, manifest digest.Digest) (digest.Digest, bool, error) {
	if form, ok, err := s.forms.Get(ctx, formKey(repository, manifest)); err != nil {
		return "", false, err
	} else if ok {
		manifest = form.Of
	}
	_, ok, err := s.made.Get(ctx, madeKey(repository, manifest))
	return manifest, ok, err
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

// Made tells which of some manifests of a repository were built. The others were pushed, or built
// before there were records of it.
func (s *Store) Made(
	ctx context.Context, repository string, manifests []digest.Digest,
) (map[digest.Digest]bool, error) {
	of := make(map[string]digest.Digest, len(manifests))
	for _, manifest := range manifests {
		of[madeKey(repository, manifest)] = manifest
	}
	records, err := s.made.GetAll(ctx, slices.Collect(maps.Keys(of)))
	made := make(map[digest.Digest]bool, len(records))
	for key := range records {
		made[of[key]] = true
	}
	return made, err
}
