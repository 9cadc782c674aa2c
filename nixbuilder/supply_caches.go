package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// cacheAttempts is how often an image is begun from binary caches, because an archive was not what
// a cache had promised.
const cacheAttempts = 3

// A cacheSupply has the paths of one image in binary caches, without a Nix store. They are packed
// while they are downloaded. As rootfs.Files it reads listings, which are gathered meanwhile.
type cacheSupply struct {
	*listings
	infos   []store.PathInfo
	paths   map[store.Path]*binarycache.Archive
	tempDir string

	mu     sync.Mutex
	parsed map[store.Path]*nar.Listing // what the root layer asked for
}

// openCaches looks for all paths of an image in binary caches. Where a path was missing before, it
// does not look again. Where an archive was damaged it does: the caches remember that, and may have
// the path elsewhere.
func (b *Builder) openCaches(ctx context.Context, j job, before *supplyError) (supply, error) {
	if missing := (*binarycache.MissingError)(nil); before != nil && errors.As(before, &missing) && !missing.Damaged {
		return nil, before
	}
	found, err := b.caches.Closure(ctx, j.packages.outputs())
	if err != nil {
		return nil, wrongSupply(err)
	}
	return newCacheSupply(b.listings, found, b.options.CacheDir), nil
}

func newCacheSupply(l *listings, found []*binarycache.Archive, tempDir string) *cacheSupply {
	s := &cacheSupply{
		listings: l, paths: make(map[store.Path]*binarycache.Archive, len(found)), tempDir: tempDir,
		parsed: make(map[store.Path]*nar.Listing),
	}
	for _, archive := range found {
		s.infos = append(s.infos, archive.PathInfo)
		s.paths[archive.Path] = archive
	}
	return s
}

// wrongSupply makes a *supplyError of a *binarycache.MissingError.
func wrongSupply(err error) error {
	if missing := (*binarycache.MissingError)(nil); errors.As(err, &missing) {
		return &supplyError{missing}
	}
	return err
}

func (s *cacheSupply) closure() []store.PathInfo { return s.infos }

// await returns at once: paths are downloaded when they are packed.
func (*cacheSupply) await(context.Context, []store.Path) error { return nil }

// pack writes the layer of paths while they are downloaded.
func (s *cacheSupply) pack(
	ctx context.Context, w io.Writer, compressor *compress.Compressor, paths []store.Path,
) (layer.Result, error) {
	read := func(p store.Path, visit func(nar.Entry) error) error { return s.read(ctx, p, visit) }
	return layer.PackArchives(ctx, w, compressor, paths, layer.Options{TempDir: s.tempDir}, read)
}

// files waits until all paths are packed: listings are gathered meanwhile, so that what the root
// layer needs is not downloaded twice.
func (s *cacheSupply) files(ctx context.Context, packed <-chan struct{}) (rootfs.Files, error) {
	select {
	case <-packed:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// keep writes the listings that the root layer asked for into the State, for the next image with
// one of these packages.
func (s *cacheSupply) keep(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(records.AtOnce)
	for p := range s.parsed {
		all.Go(func() error { return s.record(ctx, p) })
	}
	return all.Wait()
}

func (*cacheSupply) close() {}

// read downloads a path, and keeps its listing.
func (s *cacheSupply) read(ctx context.Context, p store.Path, visit func(nar.Entry) error) error {
	archive := s.paths[p]
	if archive == nil {
		return fmt.Errorf("reading %s: it is not in the closure", p)
	}
	lister := nar.Lister{Keep: rootfs.Kept, Max: maxListingBytes}
	err := archive.Read(ctx, func(e nar.Entry) error {
		if err := lister.Add(&e); err != nil {
			return err
		}
		return visit(e)
	})
	if listing, ok := lister.Bytes(); err == nil && ok {
		s.add(p, listing)
	}
	return wrongSupply(err)
}

// find looks a name up that is relative to the store. The error is fs.ErrNotExist if there is
// nothing.
func (s *cacheSupply) find(ctx context.Context, name string) (*nar.Listing, error) {
	base, below, _ := strings.Cut(name, "/")
	listing, err := s.listing(ctx, store.Path(store.Dir+"/"+base))
	if err != nil {
		return nil, err
	}
	if listing = listing.Find(below); listing == nil {
		return nil, fs.ErrNotExist
	}
	return listing, nil
}

// listing is the listing of a path of the closure. It downloads the path if it has to.
func (s *cacheSupply) listing(ctx context.Context, p store.Path) (*nar.Listing, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // there is one reader
	if listing := s.parsed[p]; listing != nil {
		return listing, nil
	}
	listing, err := s.get(ctx, p)
	if err == nil && listing == nil {
		if err = s.read(ctx, p, func(nar.Entry) error { return nil }); err == nil {
			listing, err = s.get(ctx, p)
		}
	}
	if err == nil && listing == nil {
		err = &layer.UnfitError{Path: string(p), Reason: "it has too many files"}
	}
	if err != nil {
		return nil, err
	}
	s.parsed[p] = listing
	return listing, nil
}

// Lstat implements rootfs.Files.
func (s *cacheSupply) Lstat(ctx context.Context, name string) (rootfs.File, error) {
	found, err := s.find(ctx, name)
	if err != nil {
		return rootfs.File{}, err
	}
	return rootfs.File{Type: found.Type, Target: found.Target}, nil
}

// ReadDir implements rootfs.Files.
func (s *cacheSupply) ReadDir(ctx context.Context, name string) ([]rootfs.File, error) {
	found, err := s.find(ctx, name)
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
func (s *cacheSupply) ReadFile(ctx context.Context, name string, most int64) ([]byte, error) {
	found, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if found.Content != nil && int64(len(*found.Content)) <= most {
		return []byte(*found.Content), nil
	}
	base, below, _ := strings.Cut(name, "/")
	var content []byte
	err = s.read(ctx, store.Path(store.Dir+"/"+base), func(e nar.Entry) (err error) {
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
