package middleware

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/reference"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// servedTags are the tags of a repository, with those that can be asked for.
type servedTags struct {
	distribution.TagService
	repo *repository
}

// Get implements distribution.TagService.
func (t servedTags) Get(ctx context.Context, tag string) (v1.Descriptor, error) {
	if t.repo.answer != "" {
		return v1.Descriptor{Digest: t.repo.answer}, nil
	}
	return t.TagService.Get(ctx, tag)
}

// List implements distribution.TagService. It returns up to limit tags after last, all if limit is
// negative, and io.EOF with the last of them.
func (t servedTags) List(ctx context.Context, limit int, last string) ([]string, error) {
	tags, err := t.all(ctx)
	if tags == nil || err != nil {
		if err == nil {
			return t.TagService.List(ctx, limit, last)
		}
		return nil, err
	}
	after, found := slices.BinarySearch(tags, last)
	if found {
		after++
	}
	tags = tags[after:]
	if limit < 0 || len(tags) <= limit {
		return tags, io.EOF
	}
	return tags[:limit], nil
}

// all returns the tags of a repository and those that can be asked for, sorted. There are none
// where upstream's answer is right: for repositories of pushed images, and for who may have nothing
// built. The error is upstream's for a name that can't be asked for.
//
// Under another spelling, what Nix has built for the canonical name can be asked for, by everybody.
func (t servedTags) all(ctx context.Context) ([]string, error) {
	s, name := t.repo.service, t.repo.Named()
	read, ok := readingOf(ctx)
	packages, malformed := s.options.packagesOf(name.Name())
	builds := ok && !s.readOnly && s.clientOf(ctx, read).barred == nil
	canonical, other := s.canonicalOf(name)
	if !builds && !other || errors.Is(malformed, names.ErrOutside) {
		return nil, nil
	}
	tags, err := t.All(ctx)
	if err != nil && !errors.As(err, new(distribution.ErrRepositoryUnknown)) {
		return nil, err
	}
	built, err := t.isBuilt(ctx, tags)
	if err != nil {
		return nil, err
	}
	if other {
		more, err := s.builtTags(ctx, canonical)
		if err != nil {
			return nil, err
		}
		built, tags = built || len(more) > 0, slices.Concat(tags, more)
	}
	switch {
	case !built && len(tags) > 0:
		return nil, nil // they were pushed
	case !built && builds:
		if err := s.refusal(ctx, packages, malformed); err != nil {
			return nil, err
		}
	}
	if builds {
		tags = slices.Concat(tags, []string{source.Latest}, s.builder.Offers(ctx))
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// builtTags are those tags of the canonical repository that readers of another spelling may have.
func (s *Service) builtTags(ctx context.Context, canonical reference.Named) ([]string, error) {
	repo, err := s.served.Repository(ctx, canonical)
	if err != nil {
		return nil, err
	}
	return s.store.BuiltTags(ctx, repo)
}

// isBuilt tells whether Nix built the image of a tag that the operator chose. Other tags are not
// looked at, as there may be very many.
func (t servedTags) isBuilt(ctx context.Context, tags []string) (bool, error) {
	for _, tag := range t.repo.service.tags {
		if !slices.Contains(tags, tag) {
			continue
		}
		image, err := t.repo.service.store.LookUp(ctx, t.repo.Repository, tag)
		if err != nil || image.Digest != "" && !image.Pushed {
			return err == nil, err
		}
	}
	return false, nil
}

// refusal is what the registry answers for a name that is known to be none of packages, nil if it
// may be one.
func (s *Service) refusal(ctx context.Context, packages names.Request, malformed error) error {
	err := malformed
	if err == nil {
		err = s.builder.Refusal(ctx, packages)
	}
	if asked := (*status.Error)(nil); errors.As(err, &asked) {
		return errcode.ErrorCodeNameUnknown.WithMessage(asked.Message)
	}
	return err
}
