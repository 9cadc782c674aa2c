package imagestore

import (
	"context"
	"errors"
	"fmt"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

// FirstOf returns the manifest of an index's first platform, for clients from before indexes.
func FirstOf(ctx context.Context, repo distribution.Repository, index digest.Digest) (digest.Digest, error) {
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return "", err
	}
	manifest, err := manifests.Get(ctx, index)
	if err != nil {
		return "", fmt.Errorf("reading index %s: %w", index, err)
	}
	children := manifest.References()
	if len(children) == 0 {
		return "", fmt.Errorf("reading index %s: it is empty", index)
	}
	return children[0].Digest, nil
}

// DockerForm returns the Docker schema 2 form of an OCI manifest, over the same blobs. It stores
// the form unless it is there. No tag points to it, so garbage collection may take it.
//
// If there is no such form, as with zstd, or it may not be stored, it returns the OCI manifest.
func (s *Store) DockerForm(
	ctx context.Context, repo distribution.Repository, oci digest.Digest,
) (digest.Digest, error) {
	manifests, err := repo.Manifests(ctx, storage.SkipLayerVerification()) // some may not be linked yet
	if err != nil {
		return "", err
	}
	manifest, err := manifests.Get(ctx, oci)
	if err != nil {
		return "", fmt.Errorf("reading manifest %s: %w", oci, err)
	}
	_, payload, err := manifest.Payload()
	if err != nil {
		return "", err
	}
	docker, ok, err := image.DockerForm(payload)
	if err != nil || !ok {
		return oci, err
	}
	exists, err := manifests.Exists(ctx, docker.Digest)
	if err == nil && exists {
		// A descriptor cache that outlives the registry, such as Redis, may not know what garbage
		// collection took.
		_, err = s.blobs.Stat(ctx, docker.Digest)
		if errors.Is(err, distribution.ErrBlobUnknown) {
			exists, err = false, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("looking for manifest %s: %w", docker.Digest, err)
	}
	if exists {
		return docker.Digest, nil
	}
	if s.options.ReadOnly {
		return oci, nil
	}
	return docker.Digest, putManifest(ctx, manifests, docker)
}
