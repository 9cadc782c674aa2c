package middleware

import (
	"context"
	"fmt"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
)

// What Build did.
const (
	Built     = "built"
	Unchanged = "unchanged" // it was there, of the package set as it is now
	Pushed    = "pushed"    // somebody's own, which is never replaced
)

// A Result is the image that Build leaves stored.
type Result struct {
	// Image is NAME:TAG. Digest is what the tag points to: an index of several platforms, or a
	// manifest.
	Image  string
	Digest digest.Digest
	// How is Built, Unchanged or Pushed.
	How string
}

// Build does what a pull of NAME or NAME:TAG does, without a client: it makes sure that the image
// is stored, of the package set as it is now, and returns when it is. A build that ctx leaves goes
// on until Close. An error of type *status.Error is what a client would be told.
func (s *Service) Build(ctx context.Context, image string) (Result, error) {
	name, packages, err := s.options.image(image)
	if err != nil {
		return Result{}, err
	}
	repo, err := s.repository(ctx, name)
	if err != nil {
		return Result{}, err
	}
	return s.makeCurrent(ctx, imageRequest{repo: repo, tag: name.Tag(), packages: packages})
}

// makeCurrent makes sure that an image is stored, of the package set as it is now.
func (s *Service) makeCurrent(ctx context.Context, request imageRequest) (Result, error) {
	before, err := s.store.LookUp(ctx, request.repo, request.tag)
	if err != nil {
		return Result{}, err
	}
	now := answer{Image: before}
	if !before.Pushed && !s.isCurrent(request.tag, before) {
		if now, err = s.refresh(ctx, request, client{name: own}, before); err != nil {
			return Result{}, err
		}
	}
	how := Built
	switch {
	case now.Pushed:
		how = Pushed
	case now.Digest == before.Digest:
		how = Unchanged
	}
	return Result{Image: request.String(), Digest: now.Digest, How: how}, nil
}

// repository opens a repository as the registry does for a request: writes are notified.
func (s *Service) repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	repo, err := s.namespace.Repository(ctx, reference.TrimNamed(name))
	if err != nil {
		return nil, fmt.Errorf("opening repository %s: %w", name.Name(), err)
	}
	return s.notifier.wrap(repo), nil
}

// prebuild keeps the images of the option prebuild current with the package set, until ctx ends. It
// makes one at a time: so of the builds that may run, one at most is not a client's.
func (s *Service) prebuild(ctx context.Context) {
	for {
		for _, text := range s.options.Prebuild {
			made, err := s.Build(ctx, text)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				logrus.WithError(err).Warnf("nix: %s can't be prebuilt, trying again in %v", text, s.options.Refresh)
			case made.How == Pushed:
				logrus.Infof("nix: %s is not prebuilt: it was pushed, as %s", text, made.Digest)
			}
		}
		select {
		case <-time.After(s.options.Refresh):
		case <-ctx.Done():
			return
		}
	}
}
