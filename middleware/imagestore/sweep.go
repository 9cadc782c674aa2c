package imagestore

import (
	"context"
	"errors"
	"path"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// A Sweep of records removes those of images that are not there any more.
type Sweep struct {
	// Tags is when a record of a tag must have been written at the latest to go, and Pinned one by
	// which an image that was removed is built again for who has pinned its digest.
	Tags, Pinned time.Time
	// Made is called with the revision of each image that may be built again; one at a time.
	Made func(revision string)
}

// Sweep returns how many records it has removed, by kind, also with an error.
func (s *Store) Sweep(ctx context.Context, sweep Sweep) (removed map[string]int, err error) {
	removed = make(map[string]int)
	removed["tags"], err = records.Sweep[Record]{
		Kind: "tags", Before: sweep.Tags, Gone: s.isUnused, Recheck: true,
	}.Run(ctx, s.state)
	if err != nil {
		return removed, err
	}
	removed["made"], err = records.Sweep[madeRecord]{
		Kind: "made", Before: sweep.Pinned,
		Gone: func(ctx context.Context, record madeRecord) (bool, error) {
			stored, err := s.has(ctx, record.Repository, record.Digest)
			return !stored, err
		},
		Stays: func(record madeRecord) { sweep.Made(record.Revision) },
	}.Run(ctx, s.state)
	if err != nil {
		return removed, err
	}
	removed["forms"], err = records.Sweep[formRecord]{
		Kind: "forms", Before: sweep.Pinned,
		Gone: func(ctx context.Context, record formRecord) (bool, error) {
			if record.Repository == "" {
				return true, nil
			}
			_, made, err := s.made.Fresh(ctx, madeKey(record.Repository, record.Of))
			return !made, err
		},
	}.Run(ctx, s.state)
	return removed, err
}

// isUnused tells whether no tag has the image of a record any more.
func (s *Store) isUnused(ctx context.Context, record Record) (bool, error) {
	image, encoded, _ := strings.Cut(record.Of, "@")
	at, manifest := strings.LastIndex(image, ":"), digest.Digest(encoded)
	if at < 0 || !isDigest(manifest) {
		return false, nil // of a version that did not say: without it, a tag may count as pushed
	}
	repo, err := s.repository(ctx, image[:at])
	if err != nil {
		return false, err
	}
	used, err := s.uses(ctx, repo, image[at+1:], manifest)
	return !used, err
}

func (s *Store) repository(ctx context.Context, name string) (distribution.Repository, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, err
	}
	return s.links.namespace.Repository(ctx, named)
}

// uses tells whether a tag points to a manifest, or its index has it.
func (s *Store) uses(
	ctx context.Context, repo distribution.Repository, tag string, manifest digest.Digest,
) (bool, error) {
	desc, err := repo.Tags(ctx).Get(ctx, tag)
	if err == nil && desc.Digest == manifest {
		return true, nil
	}
	if err != nil && !errors.As(err, new(distribution.ErrTagUnknown)) {
		return false, err
	}
	return s.isFile(ctx, paths.Link(path.Join(paths.TagIndex(repo.Named().Name(), tag), manifest.Encoded())))
}

// has tells whether a repository has a manifest.
func (s *Store) has(ctx context.Context, repository string, manifest digest.Digest) (bool, error) {
	if repository == "" || !isDigest(manifest) {
		return false, nil
	}
	return s.isFile(ctx, paths.Link(paths.Revision(repository, manifest)))
}

// Has tells whether a repository has a manifest, be it by its digest or by a tag that points to it.
func (s *Store) Has(ctx context.Context, repository, ref string) (bool, error) {
	if manifest := digest.Digest(ref); strings.Contains(ref, ":") {
		return s.has(ctx, repository, manifest)
	}
	return s.isFile(ctx, paths.TagCurrent(repository, ref))
}

func isDigest(text digest.Digest) bool { return text.Validate() == nil }

func (s *Store) isFile(ctx context.Context, name string) (bool, error) {
	switch _, err := s.state.driver.Stat(ctx, name); {
	case err == nil:
		return true, nil
	case errors.As(err, new(driver.PathNotFoundError)), errors.As(err, new(driver.InvalidPathError)):
		return false, nil
	default:
		return false, err
	}
}
