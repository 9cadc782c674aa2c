package blobserver

import (
	"context"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
)

// Wrap returns a registry that is as the given one, and whose repositories serve blobs as this
// package does. The blobs are in storage. Redirect says that clients are sent to the storage's own
// URLs where it has them, as upstream's option storage.redirect does.
func Wrap(registry distribution.Namespace, storage driver.StorageDriver, redirect bool) distribution.Namespace {
	wrapped := namespace{Namespace: registry, storage: storage, redirect: redirect}
	if remover, ok := registry.(distribution.RepositoryRemover); ok {
		return struct {
			namespace
			distribution.RepositoryRemover
		}{wrapped, remover}
	}
	return wrapped
}

type namespace struct {
	distribution.Namespace
	storage  driver.StorageDriver
	redirect bool
}

func (n namespace) Repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	repo, err := n.Namespace.Repository(ctx, name)
	if err != nil {
		return nil, err
	}
	return repository{repo, n}, nil
}

type repository struct {
	distribution.Repository
	namespace namespace
}

func (r repository) Blobs(ctx context.Context) distribution.BlobStore {
	return &blobs{BlobStore: r.Repository.Blobs(ctx), storage: r.namespace.storage, redirect: r.namespace.redirect}
}
