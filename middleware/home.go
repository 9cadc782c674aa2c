package middleware

import (
	"context"
	"errors"

	"github.com/distribution/distribution/v3"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// A home is the repository that has the images of a name: that of its canonical spelling. Writes are
// notified, as those of pushes are.
type home struct {
	distribution.Repository
	asked distribution.Repository // whose name is another spelling; nil: none
}

// home opens the home of a repository, which is itself unless its name is another spelling.
func (s *Service) home(ctx context.Context, repo distribution.Repository) (home, error) {
	canonical, other := s.canonicalOf(repo.Named())
	if !other {
		return home{Repository: repo}, nil
	}
	opened, err := s.repository(ctx, canonical)
	return home{opened, repo}, err
}

// String is the name for the log: as it was asked for, and the canonical one.
func (h home) String() string {
	if h.asked == nil {
		return h.Named().Name()
	}
	return h.asked.Named().Name() + " (" + h.Named().Name() + ")"
}

// errNotBuilt says as much as if nobody had pushed anything.
var errNotBuilt = status.Errorf(status.NotFound, "there is no image that was built of this name and tag")

// pullAt is pull for a name in any spelling. Under another spelling than the canonical one, what was
// pushed to it wins, and what was pushed to the canonical repository is not there.
func (s *Service) pullAt(ctx context.Context, at home, tag string, client client) (answer, error) {
	if at.asked == nil {
		got, err := s.pull(ctx, at.Repository, tag, client)
		got.repository, got.tag = at.Named().Name(), tag
		return got, err
	}
	asked := at.asked.Named().Name()
	own, err := s.store.LookUp(ctx, at.asked, tag)
	if err != nil {
		return answer{}, err
	}
	if own.Pushed {
		s.store.Vouch(asked, own.Digest)
		return answer{Image: own}, nil
	}
	if own.Digest == "" && source.IsAttached(tag) {
		return answer{}, nil // signatures are pushed, and those of the canonical name are not of this one
	}
	got, err := s.pullBuilt(ctx, at.Repository, tag, client)
	if err != nil && own.Digest != "" && !isDenied(err) {
		// Versions that built for each spelling left an image here, and there is no other now.
		logrus.WithError(err).Infof("nix: serving %s:%s as it was at %s", at, tag, own.Revision)
		s.store.Vouch(asked, own.Digest)
		return answer{Image: own, stale: tag != own.Revision, repository: asked, tag: tag}, nil
	}
	if err == nil {
		s.store.Vouch(at.Named().Name(), got.Digest)
	}
	return got, err
}

// pullBuilt is pull without what was pushed: in its place is the image of the revision that the tag
// stands for, which has a tag of its own.
func (s *Service) pullBuilt(
	ctx context.Context, repo distribution.Repository, tag string, client client,
) (answer, error) {
	got, err := s.pull(ctx, repo, tag, client)
	got.repository, got.tag = repo.Named().Name(), tag
	if err != nil || !got.Pushed {
		return got, err
	}
	revision, err := s.revisionOf(ctx, repo, tag, client)
	if err != nil {
		return answer{}, err
	}
	if got, err = s.pull(ctx, repo, revision, client); err == nil && got.Pushed {
		err = errNotBuilt
	}
	got.repository, got.tag = repo.Named().Name(), revision
	return got, err
}

// revisionOf tells which revision a tag stands for now.
func (s *Service) revisionOf(
	ctx context.Context, repo distribution.Repository, tag string, client client,
) (string, error) {
	if revision, ok := s.builder.Current(tag); ok {
		return revision, nil
	}
	if client.barred != nil {
		return "", client.barred
	}
	hold, stop := client.wait()
	defer stop()
	request := imageRequest{repo: repo, tag: tag}
	pinned, err := s.pin(source.WithPatience(ctx, lookupPatience), request, client, hold)
	if err == nil && pinned.Revision == "" { // there is no older one to go on with
		pinned, err = s.pin(ctx, request, client, hold)
	}
	return pinned.Revision, err
}

func isDenied(err error) bool {
	var asked *status.Error
	return errors.As(err, &asked) && asked.Kind == status.Denied
}

// makeAt is makeCurrent for a name in any spelling, as pullAt is pull.
func (s *Service) makeAt(ctx context.Context, at home, request imageRequest) (Result, error) {
	if at.asked != nil {
		if there, err := s.store.LookUp(ctx, at.asked, request.tag); err != nil || there.Pushed {
			return Result{Digest: there.Digest, How: Pushed}, err
		}
	}
	made, err := s.makeCurrent(ctx, request)
	if err != nil || at.asked == nil || made.How != Pushed {
		return made, err
	}
	if request.tag, err = s.revisionOf(ctx, at.Repository, request.tag, client{name: own}); err != nil {
		return Result{}, err
	}
	if made, err = s.makeCurrent(ctx, request); err == nil && made.How == Pushed {
		err = errNotBuilt
	}
	return made, err
}
