package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A job is an image for one platform.
type job struct {
	request          names.Request
	pinned           source.Pinned
	who              limit.Asker
	platform, system string
	repo             Repository
	packages         packages // once they are resolved
	labels           map[string]string
	clock            *limit.Clock // runs once the packages are resolved
	started          time.Time
}

// Build makes the image of a request and stores its layers in a repository. The caller stores the
// configs and manifests, waits for what its Repository has not done yet, and sees to it that the
// same image is not built twice at a time.
//
// Of several platforms, those that fail are left out if another one succeeds. Clients take turns.
// Images of revisions that a client chose do not take all that may be built at a time.
func (b *Builder) Build(
	ctx context.Context, request names.Request, pinned source.Pinned, who limit.Asker, repo Repository,
) (image.Image, error) {
	release, err := b.source.Lease(ctx, pinned)
	if err != nil {
		return image.Image{}, err
	}
	defer release()
	if err := b.keepVariant(ctx, pinned.Variant); err != nil {
		return image.Image{}, err
	}
	platforms := b.options.Platforms
	if request.Arch != "" {
		platforms = []string{"linux/" + request.Arch}
	}
	built := make([]image.PlatformManifest, len(platforms))
	var all sync.WaitGroup
	for i, platform := range platforms {
		all.Go(func() {
			j := job{request: request, pinned: pinned, who: who, platform: platform, repo: repo}
			built[i].Platform = platform
			built[i].Manifest, built[i].Err = b.buildPlatform(ctx, j)
		})
	}
	all.Wait()
	made := image.Image{Source: pinned.Name, Revision: pinned.Revision, NixVersion: b.evaluator.Version()}
	if len(built) == 1 {
		made.Manifest = built[0].Manifest
		return made, built[0].Err
	}
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

// buildPlatform is the pipeline: names, packages, store paths, closure, layers, manifest. If it fails
// while Nix's collector runs, it begins again, once: the collector may have taken what was evaluated
// and not yet built, for example.
func (b *Builder) buildPlatform(ctx context.Context, j job) (image.Manifest, error) {
	phase := b.nix.Phase()
	manifest, err := b.buildOnce(ctx, j)
	if err != nil && b.nix.Disturbed(phase) && ctx.Err() == nil {
		logrus.WithError(err).Warnf("nix: once more for %s, after a collection", j.request)
		manifest, err = b.buildOnce(ctx, j)
	}
	return manifest, err
}

func (b *Builder) buildOnce(ctx context.Context, j job) (image.Manifest, error) {
	j.started = time.Now()
	var err error
	if j.system, err = SystemOf(j.platform); err != nil {
		return image.Manifest{}, status.Errorf(status.NotFound, "%v", err)
	}
	end := metrics.Evaluate.Begin()
	j.packages, err = b.resolve(ctx, j.request, j.pinned, j.who, j.system)
	if end(); err != nil {
		return image.Manifest{}, err
	}
	ctx, j.clock = limit.NewClock(ctx, b.options.BuildTotal)
	defer j.clock.Stop()
	manifest, err := b.supplyAndPack(ctx, j)
	if nixstore.Gone(err) && ctx.Err() == nil {
		logrus.WithError(err).Warnf("nix: once more for %s", j.request)
		manifest, err = b.supplyAndPack(ctx, j)
	}
	return manifest, b.explain(ctx, j, err)
}

// supplyAndPack makes the image of packages that are resolved. The first supply that has all of
// their store paths serves; one that turns out not to have what it said is left.
func (b *Builder) supplyAndPack(ctx context.Context, j job) (_ image.Manifest, err error) {
	if j.packages, err = b.settle(ctx, j); err != nil {
		return image.Manifest{}, err
	}
	if j.labels, err = image.Provenance(j.request.String(), j.packages.described(), originOf(j.pinned)); err != nil {
		return image.Manifest{}, err
	}
	var wrong *supplyError
	for _, open := range b.supplies {
		end := metrics.Realise.Begin()
		from, err := open(ctx, j, wrong)
		end()
		var manifest image.Manifest
		if err == nil {
			manifest, err = b.assemble(ctx, j, from)
			from.close()
		}
		if !errors.As(err, &wrong) {
			return manifest, err
		}
	}
	return image.Manifest{}, wrong
}

// explain makes of what kept a job from its image what clients are told, where that is for them.
func (b *Builder) explain(ctx context.Context, j job, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), limit.ErrTime) {
		logrus.WithError(err).Warnf("nix: giving up on %s", j.request)
		return tooLong(b.options.BuildTotal)
	}
	if tooLarge := (*image.TooLargeError)(nil); errors.As(err, &tooLarge) {
		return status.Errorf(status.Denied, "%v", tooLarge)
	}
	if nobody := (*image.UserError)(nil); errors.As(err, &nobody) {
		return status.Errorf(status.Denied, "%v", nobody)
	}
	if unfit := (*layer.UnfitError)(nil); errors.As(err, &unfit) {
		logrus.WithError(err).Warnf("nix: no image can hold %s", j.request)
		return unfitFor(unfit)
	}
	if refused := (*status.Error)(nil); errors.As(err, &refused) {
		hinted := status.Errorf(refused.Kind, "%s%s", refused.Message, hint(j.pinned, refused.Message))
		hinted.Failed = refused.Failed
		return hinted
	}
	return err
}

// assemble makes an image out of a supply: it groups the closure into layers, stores these, and
// writes what describes them.
func (b *Builder) assemble(ctx context.Context, j job, from supply) (image.Manifest, error) {
	defer metrics.Pack.Begin()()
	// Nothing is packed of an image that nobody could have.
	closure := from.closure()
	if size := store.NarSize(closure); size > b.options.MaxBytes {
		return image.Manifest{}, nixstore.TooLarge(size, b.options.MaxBytes)
	}
	if err := image.CheckDocuments(closure, j.labels); err != nil {
		return image.Manifest{}, err
	}

	// The root layer and the layers of store paths are packed side by side.
	var root image.Layer
	var container v1.ImageConfig
	var layers []image.Layer
	packed := make(chan struct{})
	all, packing := errgroup.WithContext(ctx)
	all.Go(func() (err error) {
		root, container, err = b.packRoot(packing, j, closure, from, packed)
		return err
	})
	all.Go(func() (err error) {
		if layers, err = b.packClosure(packing, j, closure, from); err == nil {
			close(packed)
		}
		return err
	})
	if err := all.Wait(); err != nil {
		return image.Manifest{}, err
	}
	if err := from.keep(ctx); err != nil {
		return image.Manifest{}, err
	}
	layers = append([]image.Layer{root}, layers...)

	config, err := image.Config(layers, j.platform, j.pinned.Date, container)
	if err != nil {
		return image.Manifest{}, err
	}
	manifest, err := image.NewManifest(config, layers, b.options.Compression.MediaType(), j.labels)
	if err != nil {
		return image.Manifest{}, err
	}
	logrus.WithFields(logrus.Fields{
		"image": j.request.String(), "platform": j.platform, "revision": j.pinned.Revision,
		"paths": len(closure), "layers": len(layers), "took": time.Since(j.started).Round(time.Millisecond),
	}).Info("nix: built ", manifest.Digest)
	return manifest, nil
}

// packRoot merges the packages into a root directory and stores its layer. It returns how the image
// runs, too.
func (b *Builder) packRoot(
	ctx context.Context, j job, closure []store.PathInfo, from supply, packed <-chan struct{},
) (image.Layer, v1.ImageConfig, error) {
	files, err := from.files(ctx, packed)
	if err != nil {
		return image.Layer{}, v1.ImageConfig{}, err
	}
	done, err := b.merging.Acquire(ctx)
	if err != nil {
		return image.Layer{}, v1.ImageConfig{}, err
	}
	defer done()
	release, err := releaseOf(j.pinned)
	if err != nil {
		return image.Layer{}, v1.ImageConfig{}, err
	}
	profile, err := newProfile(ctx, j.packages, release, closure, files)
	if err != nil {
		return image.Layer{}, v1.ImageConfig{}, err
	}
	shell := j.request.Shell || j.request.CI
	container, err := image.Container(shell, j.packages.described(), profile.tree, j.labels)
	if err != nil {
		return image.Layer{}, v1.ImageConfig{}, err
	}
	for _, note := range profile.tree.Notes() {
		logrus.Infof("nix: in %s, %s", j.request, note)
	}
	root, err := b.packer.root(ctx, profile, j.repo)
	return root, container, err
}

// packClosure stores the layers of store paths. They are grouped as they were when the same paths
// were packed before, unless that was decided for one image alone.
func (b *Builder) packClosure(
	ctx context.Context, j job, closure []store.PathInfo, from supply,
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
		if groups, alone, err = b.layout.group(ctx, closure, b.options.Layers, !j.who.ByClient); err != nil {
			return nil, err
		}
	}
	layers, err := b.packer.layers(ctx, groups, j.repo, from)
	if err == nil && !grouped && !alone {
		j.repo.Go(ctx, func(ctx context.Context) error { return b.images.Put(ctx, key, layers) })
	}
	return layers, err
}

// closureKey is that of the record of how a closure was grouped into layers.
func (b *Builder) closureKey(closure []store.PathInfo) string {
	parts := []string{fmt.Sprint(packFormat), b.options.Compression.String(), fmt.Sprint(b.options.Layers)}
	for _, info := range closure {
		parts = append(parts, string(info.Path))
	}
	return records.Key(parts...)
}
