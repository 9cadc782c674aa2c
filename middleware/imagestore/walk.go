package imagestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// maxWalkedTags is how many tags of a repository are looked at for what Nix has built.
const maxWalkedTags = 1000

// Vouch tells that Nix has built a manifest of a repository, as LookUp says of its tag.
func (s *Store) Vouch(repository string, manifest digest.Digest) {
	s.vouched.add(repository, manifest, nil)
}

// VouchFor tells what a manifest refers to. It does nothing for one that nobody has vouched for.
func (s *Store) VouchFor(repository string, dgst digest.Digest, manifest distribution.Manifest) {
	if s.vouched.has(repository, dgst) {
		s.vouched.add(repository, dgst, referencesOf(manifest))
	}
}

// Vouched tells whether a manifest or blob is known to be of an image that Nix has built for a
// repository. It asks nobody.
func (s *Store) Vouched(repository string, dgst digest.Digest) bool {
	return s.vouched.has(repository, dgst)
}

// IsBuiltManifest tells whether Nix has built a manifest for a repository, or a form is of such a
// manifest.
func (s *Store) IsBuiltManifest(
	ctx context.Context, repo distribution.Repository, manifest digest.Digest,
) (bool, error) {
	name := repo.Named().Name()
	if s.vouched.has(name, manifest) {
		return true, nil
	}
	_, ok, err := s.RevisionOf(ctx, name, manifest)
	if ok {
		s.vouched.add(name, manifest, nil)
	}
	if ok || err != nil {
		return ok, err
	}
	return s.IsBuiltPart(ctx, repo, manifest) // it is of a version that kept no such record
}

// IsBuiltPart tells whether an image that Nix has built for a repository refers to a blob or a
// manifest, or is it. If it is not known, the repository's tags are looked through, maxWalkedTags at
// most. Tags that were looked at within walkMemory are not looked at again.
func (s *Store) IsBuiltPart(ctx context.Context, repo distribution.Repository, dgst digest.Digest) (bool, error) {
	name := repo.Named().Name()
	for {
		if s.vouched.has(name, dgst) {
			return true, nil
		}
		release, other := s.vouched.walks.Claim(name)
		if release != nil {
			defer release()
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	end, err := s.vouched.walker.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	if err := s.walk(ctx, repo, dgst); err != nil {
		return false, fmt.Errorf("looking through the tags of %s: %w", name, err)
	}
	return s.vouched.has(name, dgst), nil
}

// walk vouches for all that the tags of a repository lead to, if Nix has built it. It ends early when
// it has found what is looked for.
func (s *Store) walk(ctx context.Context, repo distribution.Repository, wanted digest.Digest) error {
	name := repo.Named().Name()
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return err
	}
	found := func() bool { return s.vouched.has(name, wanted) }
	_, err = s.lookAtTags(ctx, repo, walkedOf, found, func(ctx context.Context, manifest digest.Digest) error {
		return s.vouchForAll(ctx, name, manifests, manifest)
	})
	return err
}

// lookAtTags tells of the tags of a repository whether Nix has built their images, and calls built
// with the manifests of those, several at a time. Tags that were looked at before are left out. It
// ends early when it is enough, and then returns nil.
func (s *Store) lookAtTags(
	ctx context.Context, repo distribution.Repository, which func(*vouchedParts) *lookedAt, enough func() bool,
	built func(context.Context, digest.Digest) error,
) (map[string]bool, error) {
	name := repo.Named().Name()
	of, known := s.vouched.begin(name, which, time.Now())
	tags, err := s.tagsOf(ctx, repo)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards all
	all := make(map[string]bool, len(tags))
	looking, ctx := errgroup.WithContext(ctx)
	looking.SetLimit(records.AtOnce)
	for _, tag := range tags {
		if was, ok := known[tag]; ok {
			mu.Lock()
			all[tag] = was
			mu.Unlock()
			continue
		}
		if enough() {
			return nil, looking.Wait()
		}
		looking.Go(func() error {
			manifest, isBuilt, err := s.builtFor(ctx, repo, tag)
			if err == nil && isBuilt {
				err = built(ctx, manifest)
			}
			mu.Lock()
			defer mu.Unlock()
			all[tag] = isBuilt
			return err
		})
	}
	if err := looking.Wait(); err != nil {
		return nil, err
	}
	s.vouched.end(name, which, of, all)
	return all, nil
}

// vouchForAll vouches for a manifest that Nix has built and for all that it refers to.
func (s *Store) vouchForAll(
	ctx context.Context, repository string, manifests distribution.ManifestService, manifest digest.Digest,
) error {
	if s.vouched.isWhole(repository, manifest) {
		return nil
	}
	stored, err := manifests.Get(ctx, manifest)
	if errors.As(err, new(distribution.ErrManifestUnknownRevision)) {
		return nil // it is lost, and will be built again
	}
	if err != nil {
		return err
	}
	parts := referencesOf(stored)
	for _, part := range parts {
		if part.Platform != nil { // a manifest in an index
			if err := s.vouchForAll(ctx, repository, manifests, part.Digest); err != nil {
				return err
			}
		}
	}
	s.vouched.add(repository, manifest, parts)
	return nil
}

// BuiltTags returns the tags of a repository whose images Nix has built, sorted, of the first
// maxWalkedTags. Tags that were listed within walkMemory are as they were.
func (s *Store) BuiltTags(ctx context.Context, repo distribution.Repository) ([]string, error) {
	end, err := s.vouched.walker.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	all, err := s.lookAtTags(
		ctx, repo, listedOf, func() bool { return false }, func(context.Context, digest.Digest) error { return nil },
	)
	if err != nil {
		return nil, fmt.Errorf("looking through the tags of %s: %w", repo.Named().Name(), err)
	}
	var names []string
	for tag, built := range all {
		if built {
			names = append(names, tag)
		}
	}
	slices.Sort(names)
	return names, nil
}

// builtFor tells which manifest a tag points to, and whether Nix has built it.
func (s *Store) builtFor(
	ctx context.Context, repo distribution.Repository, tag string,
) (manifest digest.Digest, built bool, err error) {
	desc, err := repo.Tags(ctx).Get(ctx, tag)
	if errors.As(err, new(distribution.ErrTagUnknown)) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	_, built, err = s.records.Get(ctx, recordKey(repo, tag, desc.Digest))
	return desc.Digest, built, err
}

// tagsOf returns the tags of a repository, those of the operator first, maxWalkedTags at most.
func (s *Store) tagsOf(ctx context.Context, repo distribution.Repository) ([]string, error) {
	tags, err := repo.Tags(ctx).All(ctx)
	if err != nil && !errors.As(err, new(distribution.ErrRepositoryUnknown)) {
		return nil, err
	}
	later := func(tag string) int {
		if slices.Contains(s.options.Tags, tag) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(tags, func(a, b string) int { return later(a) - later(b) })
	return tags[:min(len(tags), maxWalkedTags)], nil
}

// referencesOf is what a manifest refers to, never nil.
func referencesOf(manifest distribution.Manifest) []v1.Descriptor {
	return append([]v1.Descriptor{}, manifest.References()...)
}

// HasBlob tells whether the registry has a blob or a manifest, in whatever repository.
func (s *Store) HasBlob(ctx context.Context, dgst digest.Digest) (bool, error) {
	_, err := s.blobs.Stat(ctx, dgst)
	if errors.Is(err, distribution.ErrBlobUnknown) {
		return false, nil
	}
	return err == nil, err
}
