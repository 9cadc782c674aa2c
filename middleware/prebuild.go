package middleware

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// What Build did.
const (
	Built     = "built"
	Unchanged = "unchanged" // it was there, of the package set as it is now
	Pushed    = "pushed"    // somebody's own, which is never replaced
)

// A Result is the image that Build leaves stored.
type Result struct {
	// Image is NAME:TAG, as it was asked for. Digest is what the tag points to: an index of several platforms, or a
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
	asked, err := s.repository(ctx, name)
	if err != nil {
		return Result{}, err
	}
	at, err := s.home(ctx, asked)
	if err != nil {
		return Result{}, err
	}
	made, err := s.makeAt(ctx, at, imageRequest{repo: at.Repository, tag: name.Tag(), packages: packages})
	made.Image = name.Name() + ":" + name.Tag()
	return made, err
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
	return Result{Digest: now.Digest, How: how}, nil
}

// repository opens a repository as the registry does for a request, if ctx is that of one: writes are
// notified.
func (s *Service) repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	repo, err := s.namespace.Repository(ctx, reference.TrimNamed(name))
	if err != nil {
		return nil, fmt.Errorf("opening repository %s: %w", name.Name(), err)
	}
	return s.notifier.wrap(ctx, repo), nil
}

// prebuild keeps the images of the option prebuild current with the package set, until ctx ends. It
// makes one at a time: so of the builds that may run, one at most is not a client's.
func (s *Service) prebuild(ctx context.Context) {
	metrics.Prebuilt(map[string]int{metrics.PrebuiltStale: len(s.options.Prebuild)})
	failures := make(map[string]prebuildFailure)
	for {
		states := make(map[string]int)
		for _, text := range s.options.Prebuild {
			states[s.prebuildOne(ctx, text, failures)]++
			if ctx.Err() != nil {
				return
			}
		}
		metrics.Prebuilt(states)
		select {
		case <-time.After(s.options.Refresh):
		case <-ctx.Done():
			return
		}
	}
}

// A prebuildFailure is of which revision an image could not be made, and when.
type prebuildFailure struct {
	revision string
	at       time.Time
}

// prebuildOne makes an image, unless it could not be made of the same revision less than
// Options.retry ago. It returns what metrics call the image's state.
func (s *Service) prebuildOne(ctx context.Context, text string, failures map[string]prebuildFailure) string {
	pinned, err := s.builder.Pin(ctx, tagOf(text))
	last, failed := failures[text]
	if err == nil && failed && last.revision == pinned.Revision && time.Since(last.at) < s.options.retry() {
		return metrics.PrebuiltFailed
	}
	delete(failures, text)
	made, err := s.Build(ctx, text)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			failures[text] = prebuildFailure{pinned.Revision, time.Now()}
			logrus.WithError(err).Warnf("nix: %s can't be prebuilt, trying again in %v", text, s.options.retry())
		}
		return metrics.PrebuiltFailed
	case made.How == Pushed:
		logrus.Infof("nix: %s is not prebuilt: it was pushed, as %s", text, made.Digest)
		return metrics.PrebuiltPushed
	}
	return metrics.PrebuiltCurrent
}

// tagOf is the tag of NAME or NAME:TAG.
func tagOf(text string) string {
	if _, tag, ok := strings.Cut(text, ":"); ok {
		return tag
	}
	return source.Latest
}
