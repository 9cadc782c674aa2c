package nixbuilder

import (
	"context"
	"errors"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A downloadSupply has paths that Nix is downloading into its store. They are packed as they
// arrive.
type downloadSupply struct{ storeSupply }

func (s downloadSupply) await(ctx context.Context, paths []store.Path) error {
	err := s.Await(ctx, paths)
	if errors.Is(err, nixstore.ErrNotDownloaded) {
		return &supplyError{err}
	}
	return err
}

func (s downloadSupply) files(ctx context.Context, _ <-chan struct{}) (rootfs.Files, error) {
	paths := make([]store.Path, 0, len(s.closure()))
	for _, info := range s.closure() {
		paths = append(paths, info.Path)
	}
	if err := s.await(ctx, paths); err != nil {
		return nil, err
	}
	return s.storeFiles, nil
}
