package middleware

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// errReadOnly means that the image would have to be built, and the registry does not write.
var errReadOnly = errors.New("the registry is in read-only mode, in which nothing is built")

// lookupPatience is how long a pull of a stored image waits for a remote to say whether there is a
// newer revision. The image answers meanwhile, and the question goes on.
const lookupPatience = time.Second

// An answer is the image that a pull gets.
type answer struct {
	imagestore.Image
	stale bool // there may be a newer one, which could not be looked up or is not built yet
	// Repository and tag are where it is, which is not always what was asked for (pullAt).
	repository, tag string

	waited bool // the client has waited for it to be made
}

// pull makes sure that the image of a tag is stored, building it if it can be, and returns the
// image to serve. The answer is empty where the registry's own is right, as for names that are not
// made of packages.
func (s *Service) pull(
	ctx context.Context, repo distribution.Repository, tag string, client client,
) (answer, error) {
	image, err := s.store.LookUp(ctx, repo, tag)
	if err != nil || image.Pushed {
		return answer{Image: image}, err // looked up once, not by the registry again
	}
	if image.Digest == "" && source.IsAttached(tag) {
		return answer{}, nil // for whoever looks for signatures, also those who may have nothing built
	}
	packages, err := s.options.packagesOf(repo.Named().Name())
	if errors.Is(err, names.ErrOutside) {
		return answer{}, nil
	}
	if err != nil {
		return answer{}, err
	}
	request := imageRequest{repo: repo, tag: tag, packages: packages}
	current := s.isCurrent(tag, image)
	if client.barred != nil && !current {
		if image.Digest == "" {
			return answer{}, client.barred
		}
		return answer{Image: image, stale: true}, nil
	}
	if tag == source.Latest && client.barred == nil {
		s.recentNames.Add(packages.String(), packages)
	}
	if current {
		return answer{Image: image}, nil
	}
	if image.Digest == "" {
		if err := s.rate.ask(client.name, request.String(), time.Now()); err != nil {
			return answer{}, err
		}
	}
	fresh, err := s.refresh(ctx, request, client, image)
	if err != nil && image.Digest != "" && !status.Permanent(err) {
		// The older image answers while a newer one takes long, or can't be had at the moment.
		logrus.WithError(err).Infof("nix: serving %s as it was at %s", request, image.Revision)
		return answer{Image: image, stale: true}, nil
	}
	return fresh, err
}

// isCurrent tells whether a stored image is of the package set as it is now, where that can be told
// at once.
func (s *Service) isCurrent(tag string, image imagestore.Image) bool {
	revision, ok := s.builder.Current(tag)
	return ok && s.isOf(tag, image, revision)
}

// isOf tells whether an image is as it would be made of a revision now. The tag of a revision keeps
// the image that was made for it, also when images have had another form since.
//
// An image of a newer format is as good: while replicas of two versions serve one storage, the older
// must not make again what the newer has made.
func (s *Service) isOf(tag string, image imagestore.Image, revision string) bool {
	sameForm := image.Form == "" || image.Form == s.form
	asMadeNow := sameForm && image.Format >= nixbuilder.Format || tag == revision
	return image.Digest != "" && image.Revision == revision && asMadeNow && !s.due(image)
}

// due tells whether it is time to try again for platforms that an image lacks.
func (s *Service) due(image imagestore.Image) bool {
	return len(image.Missing) > 0 && time.Since(image.At) > s.options.retry()
}

// refresh returns the image of a tag as the package set is now. That is the stored one unless the
// set has changed, and somebody's own if it was pushed meanwhile. The error is errHold if it takes
// longer than the client's hold.
func (s *Service) refresh(
	ctx context.Context, request imageRequest, client client, image imagestore.Image,
) (answer, error) {
	hold, stop := client.wait()
	defer stop()
	looking, doubted := ctx, s.jobs.doubted.Contains(request.String())
	if (image.Digest != "" || doubted) && client.name != own {
		looking = source.WithPatience(ctx, lookupPatience)
	}
	if doubted {
		looking = source.WithDoubt(looking)
	}
	pinned, err := s.pin(looking, request, client, hold)
	if err != nil {
		return answer{}, err
	}
	stale := pinned.Stale != nil
	if s.isOf(request.tag, image, pinned.Revision) {
		return answer{Image: image, stale: stale}, nil
	}
	if s.readOnly {
		return answer{}, errReadOnly
	}
	build, err := s.start(ctx, request, client, image, pinned)
	if err != nil {
		return answer{}, err
	}
	if _, err := build.await(ctx, hold); err != nil {
		if status.Permanent(err) {
			s.jobs.doubted.Add(request.String(), struct{}{})
		}
		return answer{}, err
	}
	s.jobs.doubted.Remove(request.String())
	image, err = s.store.LookUp(ctx, request.repo, request.tag)
	return answer{Image: image, stale: stale && !image.Pushed, waited: true}, err
}

// pin asks the builder what a tag stands for. That can take a while, when much has changed or a
// revision has to be fetched. Such work for a tag that a client chose is a job, limited as builds
// are: the client's next request finds it done.
func (s *Service) pin(
	ctx context.Context, request imageRequest, client client, hold <-chan time.Time,
) (source.Pinned, error) {
	pin := func(ctx context.Context) (source.Pinned, error) {
		defer metrics.Pin.Begin()()
		return s.builder.Pin(ctx, request.tag)
	}
	if request.tag == source.Latest {
		return run(ctx, pin).await(ctx, hold)
	}
	job, err := s.jobs.start(ctx, "tag "+request.tag, s.asker(request, client, source.Pinned{}), pin)
	if err != nil {
		return source.Pinned{}, err
	}
	return job.await(ctx, hold)
}

// start has an image built and committed, unless that is under way already, here or by another
// replica. A replica that waits for another one has a job, but no build.
func (s *Service) start(
	ctx context.Context, request imageRequest, client client, image imagestore.Image, pinned source.Pinned,
) (*job, error) {
	asker := s.asker(request, client, pinned)
	// Another job or replica may have ended since the client's tag was looked up.
	isThere := func(ctx context.Context) (bool, error) {
		existing, err := s.store.LookUp(ctx, request.repo, request.tag)
		return existing.Pushed || s.isOf(request.tag, existing, pinned.Revision), err
	}
	build := func(ctx context.Context) error {
		started := time.Now()
		metrics.InProgress.Inc()
		defer metrics.InProgress.Dec()
		err := s.buildAndCommit(ctx, request, pinned, asker)
		metrics.Built(buildOutcome(err), s.trigger(client, image))
		s.noteBuild(err)
		s.recent.add(request.String(), started, publicText(err))
		return err
	}
	key := request.String() + "@" + pinned.Revision
	return s.jobs.start(ctx, key, asker, func(ctx context.Context) (source.Pinned, error) {
		return pinned, s.leases.Do(ctx, "building "+key, isThere, build)
	})
}

// trigger is what metrics call the reason of a build, beside the image that its tag has so far.
func (s *Service) trigger(client client, image imagestore.Image) string {
	switch {
	case client.name == own && s.serves:
		return metrics.TriggerPrebuild
	case client.name == own:
		return metrics.TriggerCommand
	case image.Digest != "":
		return metrics.TriggerRefresh
	}
	return metrics.TriggerPull
}

// noteBuild has readiness tell of a build that failed for the registry's own sake, until one does
// not. What clients or packages did wrong says nothing about it.
func (s *Service) noteBuild(err error) {
	if asked := (*status.Error)(nil); !errors.As(err, &asked) {
		s.buildsHealth.found(err)
	}
	if err == nil {
		s.packagesHealth.found(nil) // an edit may have mended a directory
	}
}

// asker tells for whom a tag is looked up or its image is built. Without a pinned revision, only
// the tag tells whether the operator or a client chose it.
func (s *Service) asker(request imageRequest, client client, pinned source.Pinned) limit.Asker {
	configured := client.name == own || pinned.Origin != "" || slices.Contains(s.tags, request.tag)
	return limit.Asker{Client: client.name, ByClient: !configured}
}

// buildAndCommit builds an image and gives it its tag and that of its revision. The latter stays
// with the image that it has, unless it is due.
func (s *Service) buildAndCommit(
	ctx context.Context, request imageRequest, pinned source.Pinned, who limit.Asker,
) error {
	ctx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	packing, end := s.tuning.build()
	defer end()
	into := s.store.Writer(request.repo)
	defer into.Close()
	image, err := s.builder.Build(ctx, request.packages, pinned, who, tunedWriter{into, packing})
	if err != nil {
		return err
	}
	tags := []imagestore.Tag{{Name: request.tag}}
	if request.tag != pinned.Revision {
		stays := func(existing imagestore.Image) bool { return !s.due(existing) }
		tags = append(tags, imagestore.Tag{Name: pinned.Revision, Keeps: stays})
	}
	defer metrics.Commit.Begin()()
	return s.store.Commit(ctx, into, image, tags)
}

// A tunedWriter tells when layers are packed.
type tunedWriter struct {
	*imagestore.Writer
	packing func()
}

// Upload implements nixbuilder.Repository.
func (w tunedWriter) Upload(
	ctx context.Context, write func(io.Writer) (digest.Digest, error), done func(context.Context, error) error,
) error {
	w.packing()
	return w.Writer.Upload(ctx, write, done)
}
