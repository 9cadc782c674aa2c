package nixbuilder

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A storeSupply has all paths of an image in the Nix store.
type storeSupply struct {
	*nixstore.Paths
	storeFiles *rootfs.StoreFiles
}

func (s storeSupply) closure() []store.PathInfo                 { return s.Closure() }
func (s storeSupply) await(context.Context, []store.Path) error { return nil }
func (s storeSupply) keep(context.Context) error                { return nil }
func (s storeSupply) close()                                    { s.Close() }

func (s storeSupply) pack(
	ctx context.Context, w io.Writer, compressor *compress.Compressor, paths []store.Path,
) (layer.Result, error) {
	return layer.Pack(ctx, w, compressor, paths, layer.Options{})
}

func (s storeSupply) files(context.Context, <-chan struct{}) (rootfs.Files, error) {
	return s.storeFiles, nil
}

// openStore has Nix make what is not in its store. What can all be downloaded is supplied while it
// arrives.
func (b *Builder) openStore(ctx context.Context, j job, before *supplyError) (supply, error) {
	if before != nil {
		logrus.Infof("nix: building %s in the Nix store: %v", j.request, before)
	}
	paths, err := b.nix.Realise(ctx, b.needed(j), nixstore.AsItArrives)
	if before != nil && errors.Is(err, nixstore.ErrNoStore) && ctx.Err() == nil {
		logrus.WithError(err).Warn("nix: there is no Nix store to build in")
		return nil, status.Errorf(status.Denied, "%v, and this registry has no Nix store to build it in", before)
	}
	if err != nil {
		return nil, err
	}
	supply := storeSupply{paths, b.storeFiles}
	if paths.Arriving() {
		return downloadSupply{supply}, nil
	}
	return supply, nil
}

// openBuilt has Nix build what can't be downloaded.
func (b *Builder) openBuilt(ctx context.Context, j job, before *supplyError) (supply, error) {
	logrus.WithError(before).Warn("nix: building what can't be downloaded")
	paths, err := b.nix.Realise(ctx, b.needed(j), nixstore.Build)
	if err != nil {
		return nil, err
	}
	return storeSupply{paths, b.storeFiles}, nil
}

// settle returns a job's packages with the store paths that only building tells.
func (b *Builder) settle(ctx context.Context, j job) (packages, error) {
	needed := b.needed(j)
	settled, err := b.nix.Settle(ctx, needed)
	if err != nil && b.caches != nil && ctx.Err() == nil {
		err = nixstore.FloatsWithoutStore(needed.Packages, err)
	}
	if err != nil {
		return nil, err
	}
	return j.packages.withOutputs(settled), nil
}

// needed tells the Nix store what a job needs.
func (b *Builder) needed(j job) nixstore.Wanted {
	needed := nixstore.Wanted{Who: j.who, Clock: j.clock}
	for _, c := range j.packages {
		needed.Packages = append(needed.Packages, c.needed())
	}
	needed.Instantiate = func(ctx context.Context, names []string) error {
		err := whole(j.pinned, func() error {
			for names := range slices.Chunk(names, eval.MaxNames) {
				if _, err := b.evaluator.Instantiate(ctx, sourceOf(j.pinned), j.system, names); err != nil {
					return err
				}
			}
			return nil
		})
		if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
			return faultOf(j.pinned, fault)
		}
		return err
	}
	return needed
}
