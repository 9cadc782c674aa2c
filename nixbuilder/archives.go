package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

const (
	// listingFormat is part of every key of a listing's record. It changes with what package nar
	// writes.
	listingFormat = "1"
	// maxListingBytes is how large the listing of a store path may be. One file in it takes about
	// 20 bytes.
	maxListingBytes = 32 << 20
	// listingsCached is how much of listings is in memory because they were read from the State, in
	// bytes; one is mostly 1 or 2 KB, compressed.
	listingsCached = 1 << 20
	// freshBytes is how much of listings, compressed, is in memory because they came by.
	freshBytes = 64 << 20
)

// listings are what store paths hold but for the content of files, gathered while their archives
// pass. Those that root layers needed are also records. They are safe for concurrent use.
type listings struct {
	records *records.Table[[]byte]
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	fresh   *weighted.Cache[store.Path, []byte]
}

func newListings(state records.State) (*listings, error) {
	l := &listings{
		records: records.NewTable[[]byte](state, "listings", listingsCached),
		fresh:   weighted.New[store.Path, []byte](freshBytes),
	}
	var err error
	if l.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
		return nil, err
	}
	l.decoder, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxListingBytes))
	return l, err
}

func listingKey(p store.Path) string { return records.Key("listing", listingFormat, string(p)) }

// add keeps a listing in memory, as long as there is room.
func (l *listings) add(p store.Path, listing []byte) {
	compressed := l.encoder.EncodeAll(listing, nil)
	l.fresh.Add(p, compressed, len(compressed))
}

// get returns nil if the listing is not known.
func (l *listings) get(ctx context.Context, p store.Path) (*nar.Listing, error) {
	compressed, ok := l.fresh.Get(p)
	if !ok {
		var err error
		if compressed, ok, err = l.records.Get(ctx, listingKey(p)); err != nil || !ok {
			return nil, err
		}
	}
	plain, err := l.decoder.DecodeAll(compressed, nil)
	if err != nil {
		return nil, fmt.Errorf("decompressing the listing of %s: %w", p, err)
	}
	return nar.ParseListing(plain)
}

// keep writes a listing that is only in memory into the State.
func (l *listings) keep(ctx context.Context, p store.Path) error {
	key := listingKey(p)
	compressed, ok := l.fresh.Get(p)
	if !ok || l.records.Cached(key) {
		return nil
	}
	return l.records.Put(ctx, key, compressed)
}

// archives are the store paths of one image, in binary caches. They are safe for concurrent use.
type archives struct {
	*listings
	paths   map[store.Path]*binarycache.Archive
	tempDir string

	mu     sync.Mutex
	parsed map[store.Path]*nar.Listing // what the root layer asked for
}

func newArchives(l *listings, closure []*binarycache.Archive, tempDir string) *archives {
	a := &archives{
		listings: l, paths: make(map[store.Path]*binarycache.Archive, len(closure)), tempDir: tempDir, parsed: make(map[store.Path]*nar.Listing),
	}
	for _, archive := range closure {
		a.paths[archive.Path] = archive
	}
	return a
}

// await returns at once: paths are downloaded when they are packed.
func (*archives) await(context.Context, []store.Path) error { return nil }

// files are those of listings, which are gathered when the paths are packed.
func (a *archives) files() rootfs.Files { return a }

// pack writes the layer of paths while they are downloaded.
func (a *archives) pack(
	ctx context.Context, w io.Writer, compressor *layer.Compressor, paths []store.Path,
) (layer.Result, error) {
	return layer.PackArchives(
		ctx, w, compressor, paths, layer.Options{TempDir: a.tempDir},
		func(p store.Path, visit func(nar.Entry) error) error { return a.read(ctx, p, visit) },
	)
}

// read downloads a path, and keeps its listing.
func (a *archives) read(ctx context.Context, p store.Path, visit func(nar.Entry) error) error {
	archive := a.paths[p]
	if archive == nil {
		return fmt.Errorf("reading %s: it is not in the closure", p)
	}
	lister := nar.Lister{Keep: rootfs.PropagatedFile, Max: maxListingBytes}
	err := archive.Read(ctx, func(e nar.Entry) error {
		if err := lister.Add(&e); err != nil {
			return err
		}
		return visit(e)
	})
	if listing, ok := lister.Bytes(); err == nil && ok {
		a.add(p, listing)
	}
	return err
}

// find tells what is under a name that is relative to the store. The error is fs.ErrNotExist if
// that is nothing.
func (a *archives) find(ctx context.Context, name string) (*nar.Listing, error) {
	base, below, _ := strings.Cut(name, "/")
	listing, err := a.listing(ctx, store.Path(store.Dir+"/"+base))
	if err != nil {
		return nil, err
	}
	if listing = listing.Find(below); listing == nil {
		return nil, fs.ErrNotExist
	}
	return listing, nil
}

// listing is that of a path of the closure. It downloads the path if it has to.
func (a *archives) listing(ctx context.Context, p store.Path) (*nar.Listing, error) {
	a.mu.Lock()
	defer a.mu.Unlock() // there is one reader
	if listing := a.parsed[p]; listing != nil {
		return listing, nil
	}
	listing, err := a.get(ctx, p)
	if err == nil && listing == nil {
		if err = a.read(ctx, p, func(nar.Entry) error { return nil }); err == nil {
			listing, err = a.get(ctx, p)
		}
	}
	if err == nil && listing == nil {
		err = &layer.UnfitError{Path: string(p), Reason: "it has too many files"}
	}
	if err != nil {
		return nil, err
	}
	a.parsed[p] = listing
	return listing, nil
}

// Lstat implements rootfs.Files.
func (a *archives) Lstat(ctx context.Context, name string) (rootfs.File, error) {
	found, err := a.find(ctx, name)
	if err != nil {
		return rootfs.File{}, err
	}
	return rootfs.File{Type: found.Type, Target: found.Target}, nil
}

// ReadDir implements rootfs.Files.
func (a *archives) ReadDir(ctx context.Context, name string) ([]rootfs.File, error) {
	found, err := a.find(ctx, name)
	if err != nil {
		return nil, err
	}
	files := make([]rootfs.File, len(found.Children))
	for i, child := range found.Children {
		files[i] = rootfs.File{Name: child.Name, Type: child.Type}
	}
	return files, nil
}

// ReadFile implements rootfs.Files. A file whose content is not in the listing is downloaded.
func (a *archives) ReadFile(ctx context.Context, name string, most int64) ([]byte, error) {
	found, err := a.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if found.Content != nil && int64(len(*found.Content)) <= most {
		return []byte(*found.Content), nil
	}
	base, below, _ := strings.Cut(name, "/")
	var content []byte
	err = a.read(ctx, store.Path(store.Dir+"/"+base), func(e nar.Entry) (err error) {
		if e.Path != below {
			return nil
		}
		if e.Size > most {
			return rootfs.TooLarge(name, most)
		}
		content, err = io.ReadAll(e.Content)
		return err
	})
	return content, err
}

// keepListings writes those that the root layer asked for into the State, for the next image with
// one of these packages.
func (a *archives) keepListings(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(records.AtOnce)
	for p := range a.parsed {
		all.Go(func() error { return a.keep(ctx, p) })
	}
	return all.Wait()
}

// substitutions is how often an image is begun because an archive was not what a binary cache had
// promised.
const substitutions = 3

// substitute makes an image out of what binary caches have, without a Nix store. What they don't
// have goes through the Nix store, if there is one.
func (b *Builder) substitute(ctx context.Context, o order) (image.Manifest, error) {
	var missing *binarycache.MissingError
	for range substitutions {
		found, err := b.caches.Closure(ctx, o.packages.outputs())
		var manifest image.Manifest
		if err == nil {
			closure := make([]store.PathInfo, len(found))
			for i, archive := range found {
				closure[i] = archive.PathInfo
			}
			from := newArchives(b.listings, found, b.options.CacheDir)
			if manifest, err = b.assemble(ctx, o, closure, from); err == nil {
				err = from.keepListings(ctx)
			}
		}
		if !errors.As(err, &missing) {
			return manifest, err
		}
		if !missing.Damaged {
			break
		}
	}
	logrus.Infof("nix: building %s in the Nix store: %v", o.request, missing)
	manifest, err := b.fromStore(ctx, o)
	if errors.Is(err, errNoStore) && ctx.Err() == nil {
		logrus.WithError(err).Warn("nix: there is no Nix store to build in")
		return image.Manifest{}, status.Errorf(status.Denied, "%v, and this registry has no Nix store to build it in", missing)
	}
	return manifest, err
}
