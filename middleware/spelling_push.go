package middleware

import (
	"context"
	"errors"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
)

// openSpelling opens a repository by its name. It is false for a canonical name.
func (s *Service) openSpelling(ctx context.Context, name reference.Named) (spelling, bool, error) {
	canonical, other := s.canonicalOf(name)
	if !other {
		return spelling{}, false, nil
	}
	repo, err := s.served.Repository(ctx, reference.TrimNamed(name))
	if err != nil {
		return spelling{}, false, err
	}
	opened, err := s.spellingOf(ctx, repo, canonical)
	return opened, err == nil, err
}

// mountingBlobs are a repository's for clients that write. Blobs that are to be mounted from another
// spelling are found where readers of it find them.
type mountingBlobs struct {
	distribution.BlobStore
	service *Service
}

// Create implements distribution.BlobStore.
func (b mountingBlobs) Create(
	ctx context.Context, options ...distribution.BlobCreateOption,
) (distribution.BlobWriter, error) {
	var asked distribution.CreateOptions
	for _, option := range options {
		if err := option.Apply(&asked); err != nil {
			return nil, err
		}
	}
	if mount := asked.Mount; mount.ShouldMount && mount.Stat == nil {
		from, ok, err := b.service.openSpelling(ctx, mount.From)
		if err != nil {
			return nil, err
		}
		if ok {
			if desc, err := from.readBlobs(ctx).Stat(ctx, mount.From.Digest()); err == nil {
				options = append(options, imagestore.MountOf(desc))
			} // else the client uploads it, as the registry has it
		}
	}
	return b.BlobStore.Create(ctx, options...)
}

// adoptingManifests are those of a repository under another spelling, for clients that push. These
// are told that what Nix has built is there, and do not push it. So it is linked into the repository
// when something refers to it that is pushed.
type adoptingManifests struct {
	distribution.ManifestService
	service *Service
	into    distribution.Repository
}

// adopting returns the manifests as they are where the name is canonical.
func (s *Service) adopting(
	repo distribution.Repository, manifests distribution.ManifestService,
) distribution.ManifestService {
	if _, other := s.canonicalOf(repo.Named()); !other {
		return manifests
	}
	return adoptingManifests{manifests, s, repo}
}

// Put implements distribution.ManifestService.
func (m adoptingManifests) Put(
	ctx context.Context, manifest distribution.Manifest, options ...distribution.ManifestServiceOption,
) (digest.Digest, error) {
	dgst, err := m.ManifestService.Put(ctx, manifest, options...)
	lacking := lackingOf(err)
	if len(lacking) == 0 {
		return dgst, err
	}
	from, ok, openErr := m.service.openSpelling(ctx, m.into.Named())
	if openErr != nil {
		return "", openErr
	}
	if !ok {
		return dgst, err
	}
	for _, part := range lacking {
		if adopted, adoptErr := m.adopt(ctx, from, part); adoptErr != nil {
			return "", adoptErr
		} else if !adopted {
			return dgst, err
		}
	}
	return m.ManifestService.Put(ctx, manifest, options...)
}

// lackingOf returns what a repository lacks that a manifest refers to.
func lackingOf(err error) (lacking []digest.Digest) {
	var faults distribution.ErrManifestVerification
	if !errors.As(err, &faults) {
		return nil
	}
	for _, fault := range faults {
		var unknown distribution.ErrManifestBlobUnknown
		if errors.As(fault, &unknown) {
			lacking = append(lacking, unknown.Digest)
		}
	}
	return lacking
}

// adopt makes a blob or a manifest part of the repository, if readers find it there and Nix has built
// it. It is false if there is no such thing.
func (m adoptingManifests) adopt(ctx context.Context, from spelling, part digest.Digest) (bool, error) {
	desc, err := from.readBlobs(ctx).Stat(ctx, part)
	if err == nil {
		return true, imagestore.Link(ctx, m.into, desc)
	}
	if !errors.Is(err, distribution.ErrBlobUnknown) {
		return false, err
	}
	manifests, err := from.readManifests(ctx)
	if err != nil {
		return false, err
	}
	manifest, err := manifests.Get(ctx, part)
	if isUnknownManifest(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = m.Put(ctx, manifest)
	return err == nil, err
}
