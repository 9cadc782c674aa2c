package middleware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

const (
	// holdParameter counts, in the query, how often a client was sent round.
	holdParameter = "hold"
	// maxHolds is one less than the redirects that Go's HTTP client follows, and with it most
	// container tools.
	maxHolds = 9
)

// errHold is that the image is still being built and the client shall ask again now.
var errHold = errors.New("the image is being built")

// errReadOnly is that the image would have to be built and the registry does not write.
var errReadOnly = errors.New("the registry is in read-only mode, in which nothing is built")

// pull makes sure that the image of a tag is stored, building it if it can be. It returns the
// manifest to serve, or nothing when the registry's own answer is right, as for names that are not
// made of packages.
func (s *Service) pull(ctx context.Context, repo distribution.Repository, p pull) (digest.Digest, error) {
	image, pushed, err := s.lookUp(ctx, repo, p.tag)
	if err != nil || pushed {
		return image.digest, err // looked up once, not by the registry again
	}
	request, err := s.options.request(repo.Named().Name())
	if errors.Is(err, names.ErrOutside) {
		return "", nil
	}
	if err != nil {
		return "", nixbuilder.Errorf(nixbuilder.NotFound, "%v", err)
	}
	current := s.isCurrent(p.tag, image)
	if p.barred != nil && !current {
		if image.digest == "" {
			return "", p.barred
		}
		image.stale = true
		return s.serve(ctx, repo, p, image)
	}
	if p.tag == source.Latest && p.barred == nil {
		s.lately.Add(request.String(), request)
	}
	if current {
		return s.serve(ctx, repo, p, image)
	}
	if image.digest == "" {
		if err := s.rate.ask(p.client, repo.Named().Name()+":"+p.tag, time.Now()); err != nil {
			return "", err
		}
	}
	hold := time.NewTimer(s.options.Build.Hold)
	defer hold.Stop()
	fresh, err := s.refresh(ctx, hold.C, repo, p, request, image)
	if err != nil && image.digest != "" && !nixbuilder.Permanent(err) {
		// The older image answers while a newer one takes long, or can't be had at the moment.
		logrus.WithError(err).Infof("nix: serving %s:%s as it was at %s", repo.Named().Name(), p.tag, image.Revision)
		image.stale = true
		return s.serve(ctx, repo, p, image)
	}
	if err != nil || fresh.digest == "" {
		return "", err
	}
	return s.serve(ctx, repo, p, fresh)
}

// isCurrent tells whether a stored image is of the package set as it is now, where that can be told
// at once.
func (s *Service) isCurrent(tag string, image stored) bool {
	revision, ok := s.builder.Current(tag)
	return ok && s.isOf(tag, image, revision)
}

// isOf tells whether an image is as it would be made of a revision now. The tag of a revision is
// left as it was made, also if images have had another form since.
func (s *Service) isOf(tag string, image stored, revision string) bool {
	sameForm := image.Form == "" || image.Form == s.form || tag == revision
	return image.digest != "" && image.Revision == revision && sameForm && !s.due(image)
}

// due tells whether it is time to try again for platforms that an image lacks.
func (s *Service) due(image stored) bool {
	return len(image.Missing) > 0 && time.Since(image.At) > s.options.Refresh
}

// refresh returns the image of a tag as the package set is now, which is the stored one unless the
// set has changed. It is none if somebody pushed meanwhile. The error is errHold if that takes
// longer than the hold, which never ends if it is nil.
func (s *Service) refresh(
	ctx context.Context,
	hold <-chan time.Time,
	repo distribution.Repository,
	p pull,
	request names.Request,
	image stored,
) (stored, error) {
	pinned, err := s.pin(ctx, hold, p)
	if err != nil || s.isOf(p.tag, image, pinned.Revision) {
		image.stale = pinned.Stale != nil
		return image, err
	}
	if s.readOnly {
		return image, errReadOnly
	}
	build, err := s.start(ctx, repo, p, request, pinned)
	if err != nil {
		return image, err
	}
	if err := build.await(ctx, hold); err != nil {
		return image, err
	}
	image, pushed, err := s.lookUp(ctx, repo, p.tag)
	if pushed {
		return stored{}, err
	}
	image.stale = pinned.Stale != nil
	return image, err
}

// pin asks the builder what a tag stands for. That can take a while, when much has changed or a
// revision has to be fetched; the client's next round finds it done. Tags that clients choose count
// as work that they ask for.
func (s *Service) pin(ctx context.Context, hold <-chan time.Time, p pull) (source.Pinned, error) {
	if p.tag != source.Latest {
		fetch, err := s.jobs.start(ctx, "tag "+p.tag, s.asker(p, source.Pinned{}), func(ctx context.Context) error {
			_, err := s.builder.Pin(ctx, p.tag)
			return err
		})
		if err != nil {
			return source.Pinned{}, err
		}
		if err := fetch.await(ctx, hold); err != nil {
			return source.Pinned{}, err
		}
	}
	var pinned source.Pinned
	ask := run(ctx, func(ctx context.Context) (err error) {
		pinned, err = s.builder.Pin(ctx, p.tag)
		return err
	})
	if err := ask.await(ctx, hold); err != nil {
		return source.Pinned{}, err
	}
	return pinned, nil
}

// start has an image built and committed, unless that is under way already.
func (s *Service) start(
	ctx context.Context, repo distribution.Repository, p pull, request names.Request, pinned source.Pinned,
) (*job, error) {
	key := repo.Named().Name() + ":" + p.tag + "@" + pinned.Revision
	who := s.asker(p, pinned)
	return s.jobs.start(ctx, key, who, func(ctx context.Context) error {
		current, pushed, err := s.lookUp(ctx, repo, p.tag)
		if err != nil || pushed || s.isOf(p.tag, current, pinned.Revision) {
			return err // another job ended since the client's tag was looked up
		}
		started := time.Now()
		err = s.buildAndCommit(ctx, repo, p.tag, request, pinned, who.byClient)
		s.recent.add(repo.Named().Name()+":"+p.tag, started, publicText(err))
		return err
	})
}

// asker is who asks for what a tag stands for, as far as that is known.
func (s *Service) asker(p pull, pinned source.Pinned) asker {
	configured := p.client == own || pinned.Origin != "" || slices.Contains(s.tags, p.tag)
	return asker{client: p.client, byClient: !configured}
}

func (s *Service) buildAndCommit(
	ctx context.Context,
	repo distribution.Repository,
	tag string,
	request names.Request,
	pinned source.Pinned,
	byClient bool,
) error {
	defer s.tuning.begin()()
	defer s.links.gate.begin()()
	into := &target{Repository: repo, blobs: s.blobs, held: s.held}
	defer func() { _ = into.storing.Wait() }() // commit returned its error, if it came to that
	image, err := s.builder.Build(ctx, request, pinned, byClient, into)
	if err != nil {
		return err
	}
	tags := []string{tag}
	if tag != pinned.Revision {
		tags = append(tags, pinned.Revision)
	}
	return s.commit(ctx, into, image, tags)
}

// serve chooses the form of a stored image that the client takes, and says what the image was built
// from.
func (s *Service) serve(
	ctx context.Context, repo distribution.Repository, p pull, image stored,
) (digest.Digest, error) {
	answer := image.digest
	var err error
	if image.Index && !p.accepts.index {
		if answer, err = firstOf(ctx, repo, answer); err != nil {
			return "", err
		}
	}
	if p.accepts.docker && !p.accepts.manifest && (!image.Index || !p.accepts.index) {
		if answer, err = s.dockerForm(ctx, repo, answer); err != nil {
			return "", err
		}
	}
	p.header.Set(
		"Warning",
		fmt.Sprintf("299 - %q", "built by Nix "+image.Nix+" from "+image.Source+" at "+image.Revision),
	)
	for _, platform := range image.Missing {
		p.header.Add("Warning", fmt.Sprintf("299 - %q", "there is no image for "+platform))
	}
	if image.stale {
		p.header.Add("Warning", `299 - "there may be a newer one, which could not be looked up or is not built yet"`)
	}
	return answer, nil
}

// firstOf is the manifest of an index's first platform, for clients from before indexes.
func firstOf(ctx context.Context, repo distribution.Repository, index digest.Digest) (digest.Digest, error) {
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return "", err
	}
	manifest, err := manifests.Get(ctx, index)
	if err != nil {
		return "", fmt.Errorf("reading index %s: %w", index, err)
	}
	children := manifest.References()
	if len(children) == 0 {
		return "", fmt.Errorf("reading index %s: it is empty", index)
	}
	return children[0].Digest, nil
}

// dockerForm stores the Docker schema 2 form of an OCI manifest, over the same blobs, unless it is
// there. No tag holds it, so garbage collection may take it. Where there is no such form (zstd), or
// it can't be stored, the answer is the manifest itself.
func (s *Service) dockerForm(
	ctx context.Context, repo distribution.Repository, oci digest.Digest,
) (digest.Digest, error) {
	manifests, err := repo.Manifests(ctx, storage.SkipLayerVerification()) // some may not be linked yet
	if err != nil {
		return "", err
	}
	manifest, err := manifests.Get(ctx, oci)
	if err != nil {
		return "", fmt.Errorf("reading manifest %s: %w", oci, err)
	}
	_, payload, err := manifest.Payload()
	if err != nil {
		return "", err
	}
	docker, ok, err := image.DockerForm(payload)
	if err != nil || !ok {
		return oci, err
	}
	exists, err := manifests.Exists(ctx, docker.Digest)
	if err == nil && exists {
		// A descriptor cache that outlives the registry, such as Redis, may not know what garbage
		// collection took.
		_, err = s.blobs.Stat(ctx, docker.Digest)
		if errors.Is(err, distribution.ErrBlobUnknown) {
			exists, err = false, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("looking for manifest %s: %w", docker.Digest, err)
	}
	if exists {
		return docker.Digest, nil
	}
	if s.readOnly {
		return oci, nil
	}
	return docker.Digest, putManifest(ctx, manifests, docker)
}
