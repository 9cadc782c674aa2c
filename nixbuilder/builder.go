package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/share"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// How much of records is in memory, in bytes. How an image was grouped is mostly 50 KB.
const (
	imagesCached   = 10 << 20
	variantsCached = 1 << 20
)

// Where records are in the State.
const (
	imagesKind   = "images"
	variantsKind = "variants"
)

// A Builder makes images. It is safe for concurrent use.
type Builder struct {
	options    Options
	source     source.Source
	variants   *records.Table[source.Variant] // by ID
	evaluator  *eval.Evaluator
	packages   *resolver
	denials    *weighted.Cache[string, denials] // by revision and platform
	saidFaults *weighted.Cache[string, string]  // of includes, by revision and platform
	nix        *nixstore.Store
	caches     *binarycache.Caches // nil: all goes through the Nix store
	share      *share.Share        // nil: nothing is shared
	stop       context.CancelFunc  // of what runs in the background
	background sync.WaitGroup
	supplies   []opener // in the order in which they are tried
	storeFiles *rootfs.StoreFiles
	listings   *listings   // nil: as caches
	merging    limit.Slots // for root directories in memory, which can be megabytes
	layout     *layout
	images     *records.Table[[]image.Layer] // how a closure was grouped
	packer     *packer
	complained *expirable.LRU[string, struct{}] // of remotes that can't be looked up, lately
}

// It is logged once in complaintMemory that a remote can't be looked up, for so many reasons.
const (
	complaintMemory = 30 * time.Second
	complaintsKept  = 1000
)

// New prepares a Builder and tries out that Nix is there, its store too unless the Builder is
// storeless. Limits of isolation that the host does not permit are logged. What it found out and
// wants to share with other replicas it keeps in state.
func New(ctx context.Context, options Options, state records.State) (*Builder, error) {
	runner, warnings := proc.New()
	b := &Builder{
		options:    options,
		variants:   records.NewTable[source.Variant](state, variantsKind, variantsCached),
		denials:    weighted.New[string, denials](denialsCached),
		saidFaults: weighted.New[string, string](saidFaultsCached),
		storeFiles: rootfs.NewStoreFiles(""),
		merging:    limit.NewSlots(runtime.GOMAXPROCS(0)),
		layout:     newLayout(state),
		images:     records.NewTable[[]image.Layer](state, imagesKind, imagesCached),
		packer:     newPacker(state, options.Compression),
		complained: expirable.NewLRU[string, struct{}](complaintsKept, nil, complaintMemory),
	}
	b.supplies = []opener{b.openStore, b.openBuilt}
	dir := filepath.Join(options.CacheDir, "sources")
	set, err := options.Packages.open(runner, source.NewWatches(), dir, options.settings(), state, b.variants.Get)
	if err != nil {
		return nil, fmt.Errorf("opening the package set: %w", err)
	}
	b.source = set
	bound := cachedir.NewBound(options.CacheBytes)
	bound.Add(set.Parts(bound.Grown)...)
	read := func(
		ctx context.Context, drv store.Path, write func(context.Context) error,
	) ([]store.Path, string, func(), error) {
		return b.nix.Read(ctx, drv, write)
	}
	if b.evaluator, err = options.evaluator(ctx, runner, read, bound.Grown); err != nil {
		return nil, err
	}
	bound.Add(b.evaluator)
	bound.Grown() // before this process
	if err := warnOfFetching(ctx, b.evaluator); err != nil {
		return nil, err
	}
	b.packages = newResolver(
		b.evaluator, state, options.Concurrency, options.BuildTotal, b.wantedFirst(nil),
	)
	nixOptions := options.nixStore()
	if b.share, err = options.openShare(runner); err != nil {
		return nil, err
	}
	if b.share != nil {
		nixOptions.Share = b.share
	}
	if b.nix, err = nixstore.New(runner, nixOptions, state); err != nil {
		return nil, err
	}
	b.startSharing()
	if !options.Storeless {
		return b, b.nix.Start(ctx, b.evaluator, warnings)
	}
	return b, b.withCaches(state, warnings)
}

// withCaches has images made from binary caches, and from the Nix store only what these lack.
func (b *Builder) withCaches(state records.State, warnings []string) (err error) {
	if b.listings, err = newListings(state); err != nil {
		return err
	}
	caches := b.options.Caches
	if b.share != nil {
		caches.Share = binarycache.Share{URL: b.options.Share.Cache(), Usable: b.share.Usable, Failed: b.share.Failed}
	}
	if b.caches, err = binarycache.New(caches); err != nil {
		return err
	}
	b.supplies = append(slices.Repeat([]opener{b.openCaches}, cacheAttempts), b.supplies...)
	b.packer.cores = limit.NewSlots(cap(b.packer.uploads)) // some of them wait for the network
	for _, warning := range warnings {
		logrus.Warn("nix: ", warning)
	}
	logrus.Infof("nix: making images straight from binary caches, and evaluating with Nix %s", b.evaluator.Version())
	return nil
}

// warnOfFetching logs what the operator should know of how package sets fetch.
func warnOfFetching(ctx context.Context, evaluator *eval.Evaluator) error {
	useless, err := evaluator.UselessForGit(ctx)
	if err != nil {
		return err
	}
	for _, uri := range useless {
		logrus.Warnf(
			"nix: nix.alloweduris: Nix %s can't be allowed %s alone: allow the directory that the repository is in, with a slash at its end",
			evaluator.Version(), uri,
		)
	}
	if why := evaluator.Shared(); why != "" {
		logrus.Warnf(
			"nix: what package sets fetch comes by a proxy that keeps to nix.alloweduris, but through the network of this host: %s",
			why,
		)
	}
	return nil
}

// startSharing copies what is built to other replicas, from now on.
func (b *Builder) startSharing() {
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	if b.share == nil {
		return
	}
	logrus.Infof("nix: what is built is copied to %s, for other registries", b.options.Share.Shown())
	b.background.Go(func() { b.share.Run(ctx, b.nix) })
}

// Drain waits until what was built is copied to other replicas, or can't be. The error says what is
// not.
func (b *Builder) Drain(ctx context.Context) error {
	if b.share == nil {
		return nil
	}
	return b.share.Drain(ctx)
}

// Close ends the connections to Nix that are idle, and what runs in the background. It is called
// when no image is being made any more.
func (b *Builder) Close() {
	b.stop()
	b.background.Wait()
	if b.share != nil {
		b.share.Close()
	}
	b.nix.Close()
}

// Current tells which revision of the package set a tag stands for now, if that can be told at
// once.
func (b *Builder) Current(tag string) (revision string, ok bool) { return b.source.Current(tag) }

// Offers lists the tags beside source.Latest that clients may choose, as far as that is known. It
// takes seconds at most.
func (b *Builder) Offers(ctx context.Context) []string { return b.source.Offers(ctx) }

// NixVersion is the version of the Nix that evaluates.
func (b *Builder) NixVersion() string { return b.evaluator.Version() }

// Doubt has the next Pin look the package set up, however lately that was done.
func (b *Builder) Doubt() { b.source.Doubt() }

// Pin tells which revision of the package set a tag stands for now. The error is of kind NotFound
// if there is none, Denied if clients may not choose it, and Damaged if its archive is of no use.
func (b *Builder) Pin(ctx context.Context, tag string) (source.Pinned, error) {
	pinned, err := b.source.Pin(ctx, tag)
	if bad := (*source.ArchiveError)(nil); errors.As(err, &bad) {
		logrus.WithError(err).Warnf("nix: %s is of no use", tag)
		return pinned, status.Errorf(status.Damaged, "%v", bad)
	}
	if errors.Is(err, source.ErrUnknownTag) {
		return pinned, status.Errorf(
			status.NotFound, "tag %q is neither %q nor a revision of the package set", tag, source.Latest,
		)
	}
	if refused := (*source.NotAllowedError)(nil); errors.As(err, &refused) {
		return pinned, status.Errorf(status.Denied, "%v", refused)
	}
	if pinned.Stale != nil {
		b.complain(pinned)
	}
	return pinned, err
}

// complain logs that a remote can't be looked up, which each pull finds out meanwhile.
func (b *Builder) complain(pinned source.Pinned) {
	why := pinned.Name + ": " + pinned.Stale.Error()
	if _, known := b.complained.Get(why); !known {
		b.complained.Add(why, struct{}{})
		logrus.WithError(pinned.Stale).Warnf("nix: going on with %s at %s", pinned.Name, pinned.Revision)
	}
}

// keepVariant remembers what an image is built from, for the tag of its revision.
func (b *Builder) keepVariant(ctx context.Context, variant source.Variant) error {
	id := variant.ID()
	if id == "" {
		return nil
	}
	_, known, err := b.variants.Get(ctx, id)
	if err == nil && !known {
		logrus.Infof("nix: revisions with %s are of %s", id, strings.Join(variant, " "))
		err = b.variants.Put(ctx, id, variant)
	}
	return err
}
