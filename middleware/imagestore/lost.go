package imagestore

import (
	"context"
	"errors"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/opencontainers/go-digest"
)

const (
	// lostMemory is how long it is remembered that a repository lacked something, for the pull that
	// comes next. lostKept is of how many repositories.
	lostMemory = 10 * time.Minute
	lostKept   = 10_000
)

// Lost are the blobs and manifests that clients asked for last and did not get, one for each
// repository. If an image that was built should have it, the storage has lost it, and the image is
// built again.
type lost = expirable.LRU[string, digest.Digest]

func newLost() *lost { return expirable.NewLRU[string, digest.Digest](lostKept, nil, lostMemory) }

// Miss tells that a repository lacks a manifest or a blob that a client has asked for.
func (s *Store) Miss(repository string, dgst digest.Digest) { s.lost.Add(repository, dgst) }

// damaged tells whether a built image should have something that was asked for and is lost. It costs
// nothing as long as nobody missed anything.
func (s *Store) damaged(ctx context.Context, repo distribution.Repository, image digest.Digest) (bool, error) {
	missed, ok := s.lost.Get(repo.Named().Name())
	if !ok {
		return false, nil
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return false, err
	}
	check := damage{manifests, s.Blobs(ctx, repo), missed}
	damaged, belongs, err := check.of(ctx, image)
	if err == nil && belongs && !damaged { // it is back
		s.lost.Remove(repo.Named().Name())
	}
	return damaged, err
}

// A damage is looked for: whether something is missing that was missed.
type damage struct {
	manifests distribution.ManifestService
	blobs     distribution.BlobStatter
	missed    digest.Digest
}

// of tells whether what was missed belongs to a manifest, and whether it is not there.
func (d damage) of(ctx context.Context, manifest digest.Digest) (damaged, belongs bool, err error) {
	stored, err := d.manifests.Get(ctx, manifest)
	if errors.As(err, new(distribution.ErrManifestUnknownRevision)) {
		return true, true, nil
	}
	if err != nil || manifest == d.missed {
		return false, err == nil, err
	}
	for _, part := range stored.References() {
		switch {
		case part.Platform != nil: // a manifest in an index
			damaged, belongs, err = d.of(ctx, part.Digest)
		case part.Digest == d.missed:
			_, err = d.blobs.Stat(ctx, part.Digest)
			damaged, belongs = errors.Is(err, distribution.ErrBlobUnknown), true
			if damaged {
				err = nil
			}
		}
		if belongs || err != nil {
			return damaged, belongs, err
		}
	}
	return false, false, nil
}
