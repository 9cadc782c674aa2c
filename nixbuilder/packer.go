package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	// layersInFlight is how many layers of an image are looked for, mounted or packed at a time.
	// Packing has its own, lower limit.
	layersInFlight = 32
	// layersCached is how much of layers' records is in memory, in bytes. One is some 400.
	layersCached = 20 << 20
	// layersKind is where they are in the State.
	layersKind = "layers"
	// uploadsPerCore bounds what storage drivers hold in memory for unfinished blobs (16 MB each with
	// GCS, for example).
	uploadsPerCore = 2
)

// A Repository is where an image's layers go. It is safe for concurrent use.
//
// A layer that the registry holds already is mounted. Any other one is uploaded: the Builder writes
// it as a stream, and knows its digest at the end.
type Repository interface {
	// Mount makes a blob of the registry, from whatever repository, part of this one. It is false
	// if the registry does not hold the blob.
	Mount(context.Context, digest.Digest) (bool, error)
	// Upload calls write with a stream, and stores what comes if it has the digest that write
	// returns. It calls done exactly once, possibly after it has returned: with nil when the blob
	// is stored, or with the reason why it is not. The error of done is the upload's.
	Upload(
		ctx context.Context, write func(io.Writer) (digest.Digest, error),
		done func(context.Context, error) error,
	) error
	// Go does something else for the image, and may return before it is done. If that fails, so
	// does the image.
	Go(ctx context.Context, do func(context.Context) error)
}

// A packer stores layers as blobs of repositories, each layer once, however many images want it. It
// is safe for concurrent use.
type packer struct {
	records    *records.Table[image.Blob]
	compressor *compress.Compressor
	uploads    limit.Slots // for layers on their way into the storage
	cores      limit.Slots // for layers that are read, which takes a core
	packing    limit.Keyed // by the key of the layer
}

func newPacker(state records.State, compression compress.Compression) *packer {
	cores := runtime.GOMAXPROCS(0)
	return &packer{
		records:    records.NewTable[image.Blob](state, layersKind, layersCached),
		compressor: compress.New(compression, cores),
		uploads:    limit.NewSlots(uploadsPerCore * cores),
		cores:      limit.NewSlots(cores),
	}
}

// layers has a layer for each group of paths in the repository, and returns them in this order.
func (p *packer) layers(
	ctx context.Context, groups [][]store.Path, repo Repository, from supply,
) ([]image.Layer, error) {
	layers := make([]image.Layer, len(groups))
	all, ctx := errgroup.WithContext(ctx)
	inFlight := limit.NewSlots(layersInFlight)
	for i, paths := range groups {
		layers[i].Paths = paths
		all.Go(func() error {
			if err := from.await(ctx, paths); err != nil {
				return err
			}
			release, err := inFlight.Acquire(ctx)
			if err != nil {
				return err
			}
			defer release()
			layers[i].Blob, err = p.layer(ctx, p.key(paths), repo, func(w io.Writer) (layer.Result, error) {
				return from.pack(ctx, w, p.compressor, paths)
			})
			return err
		})
	}
	return layers, all.Wait()
}

// root has the root layer in the repository.
func (p *packer) root(ctx context.Context, root profile, repo Repository) (image.Layer, error) {
	blob, err := p.layer(ctx, root.key(p.compressor.Compression()), repo, func(w io.Writer) (layer.Result, error) {
		return root.tree.Pack(ctx, w, p.compressor)
	})
	return image.Layer{Blob: blob}, err
}

// recall puts a layer that the record of an image tells of into memory, so that its own record need
// not be read.
func (p *packer) recall(l image.Layer) { p.records.Recall(p.key(l.Paths), l.Blob) }

// key is the key of a layer's record, for a layer of store paths.
func (p *packer) key(paths []store.Path) string {
	return records.Key("store paths", fmt.Sprint(packFormat), p.compressor.Compression().String(), store.Join(paths))
}

// layer has the layer of a key in the repository. If the registry holds it, it is mounted. If
// somebody else is packing it, layer waits for that. Else it is packed.
func (p *packer) layer(
	ctx context.Context, key string, repo Repository, write func(io.Writer) (layer.Result, error),
) (image.Blob, error) {
	for {
		blob, ok, err := p.records.Get(ctx, key)
		if err != nil {
			return image.Blob{}, err
		}
		if ok {
			mounted, err := repo.Mount(ctx, blob.Digest)
			if err != nil {
				return blob, err
			}
			if mounted {
				count(metrics.LayerKnown, blob)
				return blob, nil
			}
		}
		release, other := p.packing.Claim(key)
		switch {
		case release != nil && !ok && p.records.Cached(key):
			release() // packed since we looked
		case release != nil:
			return p.upload(ctx, key, repo, write, release)
		default:
			select {
			case <-other:
			case <-ctx.Done():
				return image.Blob{}, context.Cause(ctx)
			}
		}
	}
}

// upload streams a layer into the repository. It releases the key when the layer is stored and
// recorded, which may be after it has returned, or could not be.
func (p *packer) upload(
	ctx context.Context, key string, repo Repository, write func(io.Writer) (layer.Result, error), release func(),
) (image.Blob, error) {
	releaseUpload, err := p.uploads.Acquire(ctx)
	if err != nil {
		release()
		return image.Blob{}, err
	}
	defer releaseUpload()
	var blob image.Blob
	err = repo.Upload(ctx, func(w io.Writer) (digest.Digest, error) {
		// While this layer is begun or committed, others can use the core.
		releaseCore, err := p.cores.Acquire(ctx)
		if err != nil {
			return "", err
		}
		defer releaseCore()
		packed, err := write(w)
		blob = image.Blob{
			Digest: packed.Digest, Size: packed.Size, DiffID: packed.DiffID, Annotations: packed.Annotations,
		}
		return packed.Digest, err
	}, func(ctx context.Context, err error) error {
		defer release()
		if err != nil {
			return err
		}
		return p.records.Put(ctx, key, blob)
	})
	if err != nil {
		return image.Blob{}, fmt.Errorf("packing a layer: %w", errors.Join(err, ctx.Err()))
	}
	count(metrics.LayerPacked, blob)
	return blob, nil
}

func count(origin string, blob image.Blob) {
	metrics.Layers.Inc(origin)
	metrics.LayerBytes.Add(origin, blob.Size)
}
