package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// What is kept of records in memory, in bytes. A package is about 1 KB, a layer 400 bytes, an
// image's layers mostly 50 KB.
const (
	packagesCached = 16 << 20
	layersCached   = 20 << 20
	imagesCached   = 10 << 20
	variantsCached = 1 << 20
	seenCached     = 1 << 20
	floatingCached = 4 << 20
)

const (
	// layersInFlight is how many layers of an image are looked for, mounted or packed at a time.
	// Packing has its own, lower limit.
	layersInFlight = 32
	// warmConns is how many images whose packages are all there may ask the Nix store, and be
	// packed, beside those that Nix builds for.
	warmConns = 16
)

// A Builder makes images. It is safe for concurrent use.
type Builder struct {
	options   Options
	source    source.Source
	variants  *records.Table[source.Variant] // by ID
	evaluator *eval.Evaluator
	daemons   *daemon.Pool
	building  limit.Shared // for images that Nix builds or downloads for
	reading   limit.Slots  // for what is built for an evaluation
	merging   limit.Slots  // for root directories in memory, which can be megabytes
	packages  *resolver
	denials   *weighted.Cache[string, denials] // by revision and platform
	layout    *layout
	packer    *packer
	images    *records.Table[[]image.Layer]
	closures  *closures
	floating  *records.Table[store.Path] // by derivation and output
	files     *rootfs.StoreFiles
	caches    *binarycache.Caches // nil: all goes through the Nix store
	listings  *listings           // nil: as caches
}

// New prepares a Builder and tries out that Nix is there, its store too unless the Builder is
// storeless. Limits of isolation that the host does not permit are logged. What it found out and
// wants to share with other replicas it keeps in state.
func New(ctx context.Context, options Options, state records.State) (*Builder, error) {
	runner, warnings := proc.New()
	variants := records.NewTable[source.Variant](state, "variants", variantsCached)
	dir := filepath.Join(options.CacheDir, "sources")
	packages, err := options.Packages.open(runner, source.NewWatches(), dir, options.settings(), state, variants.Get)
	if err != nil {
		return nil, fmt.Errorf("opening the package set: %w", err)
	}
	bound := cachedir.NewBound(options.CacheBytes)
	bound.Add(packages.Parts(bound.Grown)...)
	b := new(Builder)
	var realise eval.Realise
	if options.ImportFromDerivation {
		realise = b.read
	}
	evaluator, err := options.evaluator(ctx, runner, realise, bound.Grown)
	if err != nil {
		return nil, err
	}
	if err := options.writeNetrc(); err != nil {
		return nil, err
	}
	bound.Add(evaluator)
	bound.Grown() // before this process
	useless, err := evaluator.UselessForGit(ctx)
	if err != nil {
		return nil, err
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
	*b = Builder{
		options:   options,
		source:    packages,
		variants:  variants,
		evaluator: evaluator,
		daemons: daemon.NewPool(
			runner, daemonOptions(options), daemon.Limits{Conns: 2*options.Concurrency + warmConns},
		),
		building: limit.NewShared(options.Concurrency),
		reading:  limit.NewSlots(1),
		merging:  limit.NewSlots(runtime.GOMAXPROCS(0)),
		packages: newResolver(evaluator, state, options.Concurrency, options.BuildTotal),
		denials:  weighted.New[string, denials](denialsCached),
		layout:   newLayout(state),
		packer:   newPacker(state, options.Compression),
		images:   records.NewTable[[]image.Layer](state, "images", imagesCached),
		closures: newClosures(),
		floating: records.NewTable[store.Path](state, "floating", floatingCached),
		files:    rootfs.NewStoreFiles(""),
	}
	if options.Storeless {
		if b.listings, err = newListings(state); err != nil {
			return nil, err
		}
		if b.caches, err = binarycache.New(options.Caches); err != nil {
			return nil, err
		}
		b.packer.cores = limit.NewSlots(cap(b.packer.uploads)) // some of them wait for the network
		for _, warning := range warnings {
			logrus.Warn("nix: ", warning)
		}
		logrus.Infof("nix: making images straight from binary caches, and evaluating with Nix %s", evaluator.Version())
		return b, nil
	}
	conn, err := b.daemons.Get(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoStore, err)
	}
	defer b.daemons.Put(conn)
	for _, warning := range append(warnings, conn.Warnings()...) {
		logrus.Warn("nix: ", warning)
	}
	logrus.Infof("nix: building images with Nix %s", conn.NixVersion())
	b.tellManner(ctx, conn)
	return b, nil
}

// Close ends the connections to Nix that are idle. It is called when no image is being made any
// more.
func (b *Builder) Close() { b.daemons.Close() }

// Current tells which revision of the package set a tag stands for now, if that can be told at
// once.
func (b *Builder) Current(tag string) (revision string, ok bool) { return b.source.Current(tag) }

// Pin tells which revision of the package set a tag stands for now. The error is of kind NotFound
// if there is none, Denied if clients may not choose it, and Damaged if its archive is of no use.
func (b *Builder) Pin(ctx context.Context, tag string) (source.Pinned, error) {
	pinned, err := b.source.Pin(ctx, tag)
	if bad := (*source.ArchiveError)(nil); errors.As(err, &bad) {
		logrus.WithError(err).Warnf("nix: %s is of no use", tag)
		return pinned, status.Errorf(status.Damaged, "%v", bad)
	}
	if errors.Is(err, source.ErrUnknownTag) {
		return pinned, status.Errorf(status.NotFound, "tag %q is neither %q nor a revision of the package set", tag, source.Latest)
	}
	if refused := (*source.NotAllowedError)(nil); errors.As(err, &refused) {
		return pinned, status.Errorf(status.Denied, "%v", refused)
	}
	if pinned.Stale != nil {
		logrus.WithError(pinned.Stale).
			Warnf("nix: %s can't be looked up, going on with %s", pinned.Name, pinned.Revision)
	}
	return pinned, err
}

// Build makes the image of a request and stores its layers in a repository. It is for the caller to
// store the configs and manifests, to wait for what its Repository has not done yet, and to see to
// it that the same image is not built twice at a time. Of several platforms, those that fail are
// left out if another succeeds. ByClient tells whether a client chose the revision: such images do
// not take all that may be built at a time.
func (b *Builder) Build(
	ctx context.Context, request names.Request, pinned source.Pinned, byClient bool, repo Repository,
) (image.Image, error) {
	release, err := b.source.Hold(ctx, pinned)
	if err != nil {
		return image.Image{}, err
	}
	defer release()
	if err := b.keepVariant(ctx, pinned.Variant); err != nil {
		return image.Image{}, err
	}
	made := image.Image{Source: pinned.Name, Revision: pinned.Revision, NixVersion: b.evaluator.Version()}
	platforms := b.options.Platforms
	if request.Arch != "" {
		platforms = []string{"linux/" + request.Arch}
	}
	if len(platforms) == 1 {
		made.Manifest, err = b.buildFor(
			ctx,
			order{request: request, pinned: pinned, byClient: byClient, platform: platforms[0], repo: repo},
		)
		return made, err
	}
	built := make([]image.PlatformManifest, len(platforms))
	var all sync.WaitGroup
	for i, platform := range platforms {
		all.Go(func() {
			built[i].Platform = platform
			built[i].Manifest, built[i].Err = b.buildFor(
				ctx,
				order{request: request, pinned: pinned, byClient: byClient, platform: platform, repo: repo},
			)
		})
	}
	all.Wait()
	for _, one := range built {
		if one.Err == nil {
			made.Children = append(made.Children, one.Manifest)
		} else {
			made.Missing = append(made.Missing, one.Platform)
			logrus.WithError(one.Err).Warnf("nix: %s has no image for %s", request, one.Platform)
		}
	}
	if len(made.Children) == 0 {
		return image.Image{}, built[0].Err
	}
	made.Manifest, err = image.NewIndex(built, image.IndexProvenance(request.String(), originOf(pinned)))
	return made, err
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

// An order is an image of one platform, whose packages are known.
type order struct {
	request          names.Request
	packages         packages
	pinned           source.Pinned
	byClient         bool // chose the revision
	platform, system string
	repo             Repository
	labels           map[string]string // what it is built from
	started          time.Time
	clock            *limit.Clock // runs once its packages are known
}

// buildFor is the pipeline, for one platform.
func (b *Builder) buildFor(ctx context.Context, o order) (image.Manifest, error) {
	o.started = time.Now()
	var err error
	if o.system, err = SystemOf(o.platform); err != nil {
		return image.Manifest{}, status.Errorf(status.NotFound, "%v", err)
	}
	if o.packages, err = b.resolve(ctx, o.request, o.pinned, o.byClient, o.system); err != nil {
		return image.Manifest{}, err
	}
	ctx, o.clock = limit.NewClock(ctx, b.options.BuildTotal)
	defer o.clock.Stop()
	manifest, err := b.realiseAndPack(ctx, o)
	if errors.Is(err, daemon.ErrGone) && !errors.Is(err, errNoStore) && ctx.Err() == nil {
		logrus.WithError(err).Warnf("nix: once more for %s", o.request)
		manifest, err = b.realiseAndPack(ctx, o)
	}
	if err != nil && errors.Is(context.Cause(ctx), limit.ErrTime) {
		logrus.WithError(err).Warnf("nix: giving up on %s", o.request)
		return image.Manifest{}, tooLong(b.options.BuildTotal)
	}
	if tooLarge := (*image.TooLargeError)(nil); errors.As(err, &tooLarge) {
		return image.Manifest{}, status.Errorf(status.Denied, "%v", tooLarge)
	}
	if unfit := (*layer.UnfitError)(nil); errors.As(err, &unfit) {
		logrus.WithError(err).Warnf("nix: no image can hold %s", o.request)
		return image.Manifest{}, unfitFor(unfit)
	}
	if refused := (*status.Error)(nil); errors.As(err, &refused) {
		err = status.Errorf(refused.Kind, "%s%s", refused.Message, hint(o.pinned, refused.Message))
	}
	return manifest, err
}

// realiseAndPack makes the image of packages that are known. What was done before need not be done
// again.
func (b *Builder) realiseAndPack(ctx context.Context, o order) (_ image.Manifest, err error) {
	if o.packages, err = b.settle(ctx, o); err != nil {
		return image.Manifest{}, err
	}
	if b.caches != nil {
		return b.substitute(ctx, o)
	}
	return b.fromStore(ctx, o)
}

// fromStore makes an image out of the Nix store, which Nix fills with what is not there. What it
// downloads is packed as it arrives; should binary caches then not give what they said they have,
// it is built.
func (b *Builder) fromStore(ctx context.Context, o order) (image.Manifest, error) {
	conn, coming, err := b.realise(ctx, o, asItArrives)
	if err != nil {
		return image.Manifest{}, err
	}
	if coming != nil {
		manifest, err := b.assemble(ctx, o, coming.closure, coming)
		coming.close()
		b.daemons.Put(conn)
		if !errors.Is(err, errNotDownloaded) {
			return manifest, err
		}
		logrus.WithError(err).Warn("nix: building what can't be downloaded")
		if conn, _, err = b.realise(ctx, o, built); err != nil {
			return image.Manifest{}, err
		}
	}
	defer b.daemons.Put(conn) // until then, the closure can't be collected
	closure, err := b.closures.of(ctx, conn, o.packages.outputs())
	if err != nil {
		return image.Manifest{}, err
	}
	return b.assemble(ctx, o, closure, nil)
}

// enter waits until it is an order's turn to have Nix build or download for it.
func (b *Builder) enter(ctx context.Context, o order) (leave func(), err error) {
	err = o.clock.Wait(func() (err error) {
		leave, err = b.building.Acquire(ctx, o.byClient)
		return err
	})
	return leave, err
}

// An origin is where the store paths of an image come from.
type origin interface {
	// await returns when paths can be packed.
	await(ctx context.Context, paths []store.Path) error
	// pack is a packing.
	pack(ctx context.Context, w io.Writer, compressor *layer.Compressor, paths []store.Path) (layer.Result, error)
	// files are those of all paths, when all are packed; nil: the Nix store's.
	files() rootfs.Files
}

// assemble stores the layers of an image. If from is nil, its closure is in the Nix store.
func (b *Builder) assemble(ctx context.Context, o order, closure []store.PathInfo, from origin) (image.Manifest, error) {
	if size := narSize(closure); size > b.options.MaxBytes {
		return image.Manifest{}, tooLarge(size, b.options.MaxBytes)
	}
	var err error
	if o.labels, err = image.Provenance(o.request.String(), o.packages.described(), originOf(o.pinned)); err != nil {
		return image.Manifest{}, err
	}
	if err := image.CheckConfig(closure, o.labels); err != nil { // before anything is packed
		return image.Manifest{}, err
	}
	layers, container, err := b.pack(ctx, o, closure, from)
	if err != nil {
		return image.Manifest{}, err
	}
	config, err := image.Config(layers, o.platform, o.pinned.Date, container)
	if err != nil {
		return image.Manifest{}, err
	}
	manifest, err := image.NewManifest(config, layers, b.options.Compression.MediaType(), o.labels)
	if err != nil {
		return image.Manifest{}, err
	}
	logrus.WithFields(logrus.Fields{
		"image": o.request.String(), "platform": o.platform, "revision": o.pinned.Revision, "paths": len(closure), "layers": len(layers), "took": time.Since(o.started).Round(time.Millisecond),
	}).Info("nix: built ", manifest.Digest)
	return manifest, nil
}

// pack stores the layers of an image, the root layer first, and returns how the image runs, too.
func (b *Builder) pack(
	ctx context.Context, o order, closure []store.PathInfo, from origin,
) (layers []image.Layer, container v1.ImageConfig, err error) {
	var root image.Layer
	packRoot := func(ctx context.Context, files rootfs.Files) error {
		release, err := b.merging.Acquire(ctx)
		if err != nil {
			return err
		}
		defer release()
		profile, err := newProfile(ctx, o.packages, closure, files)
		if err != nil {
			return err
		}
		container = image.Container(o.request.Shell, o.packages.described(), profile.tree, o.labels)
		root, err = b.packer.root(ctx, profile, o.repo)
		return err
	}
	if from == nil {
		all, ctx := errgroup.WithContext(ctx)
		all.Go(func() error { return packRoot(ctx, b.files) })
		all.Go(func() (err error) {
			layers, err = b.packClosure(ctx, o, closure, atOnce, packStore)
			return err
		})
		err = all.Wait()
	} else if layers, err = b.packClosure(ctx, o, closure, from.await, from.pack); err == nil {
		// What the root layer is made of is there, or known, when all is packed.
		files := from.files()
		if files == nil {
			files = b.files
		}
		err = packRoot(ctx, files)
	}
	return append([]image.Layer{root}, layers...), container, err
}

// packClosure stores the layers of store paths, grouped as they were when the same ones were packed
// before, unless that was decided for one image alone.
func (b *Builder) packClosure(
	ctx context.Context,
	o order,
	closure []store.PathInfo,
	await func(context.Context, []store.Path) error,
	pack packing,
) ([]image.Layer, error) {
	key := b.closureKey(closure)
	known, grouped, err := b.images.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	groups := make([][]store.Path, 0, len(known))
	for _, l := range known {
		groups = append(groups, l.Paths)
		b.packer.recall(l)
	}
	alone := false
	if !grouped {
		if groups, alone, err = b.layout.group(ctx, closure, b.options.Layers, !o.byClient); err != nil {
			return nil, err
		}
	}
	layers, err := b.packer.layers(ctx, groups, o.repo, await, pack)
	if err == nil && !grouped && !alone {
		o.repo.Beside(ctx, func(ctx context.Context) error { return b.images.Put(ctx, key, layers) })
	}
	return layers, err
}

// atOnce awaits what is there.
func atOnce(context.Context, []store.Path) error { return nil }

func (b *Builder) closureKey(closure []store.PathInfo) string {
	parts := []string{packFormat, b.options.Compression.String(), fmt.Sprint(b.options.Layers)}
	for _, info := range closure {
		parts = append(parts, string(info.Path))
	}
	return records.Key(parts...)
}

func narSize(closure []store.PathInfo) (size int64) {
	for _, info := range closure {
		size += info.NarSize
	}
	return size
}
