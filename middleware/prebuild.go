package middleware

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// What Build finds or makes of an image.
const (
	Built     = "built"
	Unchanged = "unchanged" // it was there, of the package set as it is now
	Pushed    = "pushed"    // somebody's own, which is never replaced
)

// A Result is the image that Build leaves stored.
type Result struct {
	// Image is NAME:TAG, Digest what the tag points to: an index of several platforms, or a
	// manifest.
	Image  string
	Digest digest.Digest
	// How is Built, Unchanged or Pushed.
	How string
}

// A wanted is an image that is made without a pull.
type wanted struct {
	repository reference.Named
	tag        string
	request    names.Request
}

func (w wanted) String() string { return w.repository.Name() + ":" + w.tag }

// image reads NAME or NAME:TAG, as it would be pulled but without the host: the prefix belongs to
// it.
func (o Options) image(text string) (wanted, error) {
	name, tag, tagged := strings.Cut(text, ":")
	if strings.Contains(tag, "/") {
		return wanted{}, fmt.Errorf("%q begins with a host: leave that out", text)
	}
	if !tagged {
		tag = source.Latest
	}
	repository, err := reference.WithName(name)
	if err == nil {
		_, err = reference.WithTag(repository, tag)
	}
	if err != nil {
		return wanted{}, fmt.Errorf("%q is not the name of an image, with or without a tag: %w", text, err)
	}
	request, err := o.request(name)
	if errors.Is(err, names.ErrOutside) {
		return wanted{}, fmt.Errorf("%q is not below %s, where images are made of packages", text, o.Names.Prefix)
	}
	return wanted{repository: repository, tag: tag, request: request}, err
}

// request reads a repository's name. The error is names.ErrOutside or of kind NotFound.
func (o Options) request(name string) (names.Request, error) {
	request, err := names.Parse(name, o.Names.Prefix, o.Names.MaxPackages)
	if err != nil && !errors.Is(err, names.ErrOutside) {
		err = nixbuilder.Errorf(nixbuilder.NotFound, "%v", err)
	}
	return request, err
}

// Build does what a pull of NAME or NAME:TAG does, without a client: it makes sure that the image
// is stored, of the package set as it is now, and returns when it is. A build that ctx leaves goes
// on until Close. An error of type *nixbuilder.Error is what a client would be told.
func (s *Service) Build(ctx context.Context, image string) (Result, error) {
	w, err := s.options.image(image)
	if err != nil {
		return Result{}, err
	}
	return s.make(ctx, w)
}

func (s *Service) make(ctx context.Context, w wanted) (Result, error) {
	made := Result{Image: w.String(), How: Pushed}
	repo, err := s.repository(ctx, w.repository)
	if err != nil {
		return made, err
	}
	image, pushed, err := s.lookUp(ctx, repo, w.tag)
	if made.Digest = image.digest; err != nil || pushed {
		return made, err
	}
	if !s.isCurrent(w.tag, image) {
		if image, err = s.refresh(ctx, nil, repo, pull{tag: w.tag, client: own}, w.request, image); err != nil {
			return made, err
		}
	}
	switch image.digest {
	case "": // pushed meanwhile
		image, _, err = s.lookUp(ctx, repo, w.tag)
	case made.Digest:
		made.How = Unchanged
	default:
		made.How = Built
	}
	made.Digest = image.digest
	return made, err
}

// repository is one as a request would have it: what is written is announced.
func (s *Service) repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	repo, err := s.namespace.Repository(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("opening repository %s: %w", name.Name(), err)
	}
	return s.notifier.wrap(repo), nil
}

// prebuild keeps the images of the option prebuild as the package set is, until ctx ends. It makes
// one at a time, so that of the builds that may run at a time one at most is not a client's.
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
