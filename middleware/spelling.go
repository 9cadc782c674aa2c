package middleware

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
)

// spellings are a registry's repositories. Those whose names are other spellings are readable as
// the type spelling says. They are below whatever notifies of pulls, which then has the name that
// was asked for.
type spellings struct {
	distribution.Namespace
	service *Service
}

// wrapSpellings keeps the registry's distribution.RepositoryRemover.
func wrapSpellings(registry distribution.Namespace, service *Service) distribution.Namespace {
	wrapped := spellings{registry, service}
	if remover, ok := registry.(distribution.RepositoryRemover); ok {
		return struct {
			spellings
			distribution.RepositoryRemover
		}{wrapped, remover}
	}
	return wrapped
}

// Repository implements distribution.Namespace.
func (n spellings) Repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	repo, err := n.Namespace.Repository(ctx, name)
	if err != nil {
		return nil, err
	}
	return n.service.readable(ctx, repo)
}

// readable returns a repository as clients read it, which is the same one for a canonical name.
func (s *Service) readable(ctx context.Context, repo distribution.Repository) (distribution.Repository, error) {
	canonical, other := s.canonicalOf(repo.Named())
	if !other {
		return repo, nil
	}
	return s.spellingOf(ctx, repo, canonical)
}

// A spelling is a repository whose name is another spelling of a canonical one. What was pushed is in
// it. Beside that, readers find what Nix has built for the canonical one, and nothing that was pushed
// there. Its tags and whatever is written are those of the repository itself.
type spelling struct {
	distribution.Repository
	canonical distribution.Repository
	store     *imagestore.Store
}

func (s *Service) spellingOf(
	ctx context.Context, repo distribution.Repository, canonical reference.Named,
) (spelling, error) {
	opened, err := s.served.Repository(ctx, canonical)
	return spelling{repo, opened, s.store}, err
}

// Manifests implements distribution.Repository.
func (r spelling) Manifests(
	ctx context.Context, options ...distribution.ManifestServiceOption,
) (distribution.ManifestService, error) {
	if !reads(ctx) {
		return r.Repository.Manifests(ctx, options...)
	}
	return r.readManifests(ctx, options...)
}

// Blobs implements distribution.Repository.
func (r spelling) Blobs(ctx context.Context) distribution.BlobStore {
	if !reads(ctx) {
		return r.Repository.Blobs(ctx)
	}
	return r.readBlobs(ctx)
}

func (r spelling) readManifests(
	ctx context.Context, options ...distribution.ManifestServiceOption,
) (distribution.ManifestService, error) {
	pushed, err := r.Repository.Manifests(ctx, options...)
	if err != nil {
		return nil, err
	}
	canonical, err := r.canonical.Manifests(ctx, options...)
	return spelledManifests{pushed, canonical, r}, err
}

func (r spelling) readBlobs(ctx context.Context) distribution.BlobStore {
	return spelledBlobs{r.Repository.Blobs(ctx), r.store.Blobs(ctx, r.canonical), r}
}

// spelledManifests are those that were pushed, and those that Nix has built for the canonical name.
type spelledManifests struct {
	distribution.ManifestService // that were pushed
	canonical                    distribution.ManifestService
	of                           spelling
}

// Exists implements distribution.ManifestService. It looks for nothing that is not known: Get does.
func (m spelledManifests) Exists(ctx context.Context, dgst digest.Digest) (bool, error) {
	if m.of.store.Vouched(m.of.canonical.Named().Name(), dgst) {
		if exists, err := m.canonical.Exists(ctx, dgst); exists || err != nil {
			return exists, err
		}
	}
	return m.ManifestService.Exists(ctx, dgst)
}

// Get implements distribution.ManifestService. The error names the repository that was asked.
//
// What is not known of either is looked for in the whole registry first: that is a single call of the
// storage for digests of nothing.
func (m spelledManifests) Get(
	ctx context.Context, dgst digest.Digest, options ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	store, asked := m.of.store, m.of.Named().Name()
	known := store.Vouched(m.of.canonical.Named().Name(), dgst)
	if known {
		if manifest, err := m.canonical.Get(ctx, dgst, options...); !isUnknownManifest(err) {
			return manifest, err
		}
	} else if !store.Vouched(asked, dgst) {
		if has, err := store.HasBlob(ctx, dgst); err != nil {
			return nil, err
		} else if !has {
			return nil, distribution.ErrManifestUnknownRevision{Name: asked, Revision: dgst}
		}
	}
	manifest, unknown := m.ManifestService.Get(ctx, dgst, options...)
	if known || !isUnknownManifest(unknown) {
		return manifest, unknown
	}
	manifest, err := m.canonical.Get(ctx, dgst, options...)
	if isUnknownManifest(err) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	if built, err := store.IsBuiltManifest(ctx, m.of.canonical, dgst); err != nil {
		return nil, err
	} else if !built {
		return nil, unknown
	}
	return manifest, nil
}

func isUnknownManifest(err error) bool {
	return errors.As(err, new(distribution.ErrManifestUnknownRevision))
}

// spelledBlobs are those that were pushed, and those of what Nix has built for the canonical name.
type spelledBlobs struct {
	distribution.BlobStore // that were pushed
	canonical              distribution.BlobStore
	of                     spelling
}

// find returns the blobs in which one is. A digest of nothing takes two calls of the storage, which
// is less than it takes below the canonical name.
func (b spelledBlobs) find(ctx context.Context, dgst digest.Digest) (distribution.BlobStore, v1.Descriptor, error) {
	store, canonical := b.of.store, b.of.canonical.Named().Name()
	known := store.Vouched(canonical, dgst)
	if known {
		if desc, err := b.canonical.Stat(ctx, dgst); !errors.Is(err, distribution.ErrBlobUnknown) {
			return b.canonical, desc, err
		}
	}
	desc, err := b.BlobStore.Stat(ctx, dgst)
	if known || !errors.Is(err, distribution.ErrBlobUnknown) {
		return b.BlobStore, desc, err
	}
	has, err := store.HasBlob(ctx, dgst)
	if err == nil && !has {
		store.Miss(canonical, dgst) // it may be lost
		err = distribution.ErrBlobUnknown
	}
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	desc, err = b.canonical.Stat(ctx, dgst)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	built, err := store.IsBuiltPart(ctx, b.of.canonical, dgst)
	if err == nil && !built {
		err = distribution.ErrBlobUnknown
	}
	return b.canonical, desc, err
}

// Stat implements distribution.BlobStore.
func (b spelledBlobs) Stat(ctx context.Context, dgst digest.Digest) (v1.Descriptor, error) {
	_, desc, err := b.find(ctx, dgst)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return desc, nil
}

// Get implements distribution.BlobStore.
func (b spelledBlobs) Get(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	from, _, err := b.find(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return from.Get(ctx, dgst)
}

// Open implements distribution.BlobStore.
func (b spelledBlobs) Open(ctx context.Context, dgst digest.Digest) (io.ReadSeekCloser, error) {
	from, _, err := b.find(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return from.Open(ctx, dgst)
}

// ServeBlob implements distribution.BlobStore.
func (b spelledBlobs) ServeBlob(ctx context.Context, w http.ResponseWriter, r *http.Request, dgst digest.Digest) error {
	from, _, err := b.find(ctx, dgst)
	if err != nil {
		return err
	}
	return from.ServeBlob(ctx, w, r, dgst)
}
