package nixbuilder

import (
	"context"
	"io"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A supply is where the store paths of one image come from: the Nix store, what Nix is downloading
// into it, or binary caches. It is safe for concurrent use, but for close.
type supply interface {
	// closure is all that the image's packages refer to, themselves included, sorted by path.
	closure() []store.PathInfo
	// await returns when paths can be packed.
	await(ctx context.Context, paths []store.Path) error
	// pack writes the layer of paths.
	pack(ctx context.Context, w io.Writer, compressor *compress.Compressor, paths []store.Path) (layer.Result, error)
	// files returns those of all paths when they can be read. Packed is closed when all layers of
	// store paths are packed.
	files(ctx context.Context, packed <-chan struct{}) (rootfs.Files, error)
	// keep is called when the image is assembled, and keeps what helps the next ones.
	keep(ctx context.Context) error
	// close is called once, when the image is assembled or failed.
	close()
}

// An opener makes the supply of an image. Before is why the supply that was tried before it did not
// serve, nil for the first. The error is a *supplyError if another supply may serve.
type opener func(ctx context.Context, j job, before *supplyError) (supply, error)

// A supplyError: a supply does not have all of an image, or not what it said it has.
type supplyError struct{ cause error }

func (e *supplyError) Error() string { return e.cause.Error() }
func (e *supplyError) Unwrap() error { return e.cause }
