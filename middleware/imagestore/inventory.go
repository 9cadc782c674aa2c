package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// inventoryAtOnce is how much of a repository is read at a time: little, as pulls use the storage,
// too.
const inventoryAtOnce = 4

// A Tagged is a tag of a repository, and the image that it points to. Its Digest is empty if it
// points to nothing: if it is being written or removed, or was when a process ended.
type Tagged struct {
	Tag string
	Image
}

// EachTag calls each for every tag of a repository, built and pushed, in no order and one after the
// other. What it reads is as the storage has it now. The names of all tags are in memory meanwhile,
// the images are not.
func (s *Store) EachTag(ctx context.Context, repo distribution.Repository, each func(Tagged) error) error {
	tags, err := repo.Tags(ctx).All(ctx)
	if errors.As(err, new(distribution.ErrRepositoryUnknown)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing the tags of %s: %w", repo.Named().Name(), err)
	}
	look := func(ctx context.Context, tag string) (Tagged, error) {
		image, err := s.look(ctx, repo, tag)
		return Tagged{tag, image}, err
	}
	return inOrder(ctx, slices.Compact(tags), look, each) // a bucket may list one twice, where a page ends
}

// look is LookUp of what the storage has now, damaged or not.
func (s *Store) look(ctx context.Context, repo distribution.Repository, tag string) (Image, error) {
	desc, err := repo.Tags(ctx).Get(ctx, tag)
	if errors.As(err, new(distribution.ErrTagUnknown)) {
		return Image{}, nil
	}
	if err != nil {
		return Image{}, fmt.Errorf("looking up %s:%s: %w", repo.Named().Name(), tag, err)
	}
	record, built, err := s.records.Fresh(ctx, recordKey(repo, tag, desc.Digest))
	return Image{Digest: desc.Digest, Pushed: !built, Record: record}, err
}

// A Stored manifest is one that a repository has, whether or not a tag leads to it.
type Stored struct {
	Digest digest.Digest
	// Made tells that there is a record of Nix having built it. There is none of what was pushed.
	Made bool
}

// EachManifest calls each for every manifest of a repository, in no order and one after the other.
// The digests of all are in memory meanwhile.
func (s *Store) EachManifest(ctx context.Context, repo distribution.Repository, each func(Stored) error) error {
	name := repo.Named().Name()
	digests, err := s.digestsBelow(ctx, name, "_manifests/revisions/sha256")
	if err != nil {
		return err
	}
	look := func(ctx context.Context, manifest digest.Digest) (Stored, error) {
		_, made, err := s.made.Fresh(ctx, madeKey(name, manifest))
		return Stored{manifest, made}, err
	}
	return inOrder(ctx, digests, look, each)
}

// Linked returns the blobs that a repository has, but for manifests: layers and configs, whatever
// refers to them.
func (s *Store) Linked(ctx context.Context, repository string) ([]digest.Digest, error) {
	return s.digestsBelow(ctx, repository, "_layers/sha256")
}

// digestsBelow lists a directory of a repository. Other algorithms than SHA-256 are for pushed blobs
// alone.
func (s *Store) digestsBelow(ctx context.Context, repository, directory string) ([]digest.Digest, error) {
	names, err := s.state.driver.List(ctx, path.Join(paths.Repositories, repository, directory))
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing %s of %s: %w", directory, repository, err)
	}
	digests := make([]digest.Digest, 0, len(names))
	for _, name := range names {
		if found := digest.NewDigestFromEncoded(digest.SHA256, path.Base(name)); found.Validate() == nil {
			digests = append(digests, found)
		}
	}
	slices.Sort(digests)
	return slices.Compact(digests), nil
}

// Parts are what a manifest refers to.
type Parts struct {
	// Blobs are the manifest itself, its config and layers, and those of its children.
	Blobs []v1.Descriptor
	// Children are the manifests of an index.
	Children []digest.Digest
	// Subject is what the manifest was attached to, as signatures are; mostly empty.
	Subject digest.Digest
}

// PartsOf reads a manifest. The Parts are empty if the repository does not have it; a child that it
// does not have has no blobs.
func (s *Store) PartsOf(ctx context.Context, repo distribution.Repository, manifest digest.Digest) (Parts, error) {
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return Parts{}, err
	}
	return partsOf(ctx, manifests, manifest, true)
}

func partsOf(
	ctx context.Context, manifests distribution.ManifestService, manifest digest.Digest, withChildren bool,
) (parts Parts, err error) {
	stored, err := manifests.Get(ctx, manifest)
	if gone(err) {
		return Parts{}, nil
	}
	if err != nil {
		return Parts{}, fmt.Errorf("reading manifest %s: %w", manifest, err)
	}
	mediaType, payload, err := stored.Payload()
	if err != nil {
		return Parts{}, err
	}
	var attached struct {
		Subject   v1.Descriptor   `json:"subject"`
		Manifests []v1.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(payload, &attached); err != nil {
		return Parts{}, fmt.Errorf("reading manifest %s: %w", manifest, err)
	}
	parts.Subject = attached.Subject.Digest
	parts.Blobs = []v1.Descriptor{{MediaType: mediaType, Digest: manifest, Size: int64(len(payload))}}
	if len(attached.Manifests) == 0 {
		parts.Blobs = append(parts.Blobs, stored.References()...)
		return parts, nil
	}
	for _, child := range attached.Manifests {
		parts.Children = append(parts.Children, child.Digest)
		if !withChildren {
			continue
		}
		below, err := partsOf(ctx, manifests, child.Digest, false) // an index in an index is somebody's own
		if err != nil {
			return Parts{}, err
		}
		parts.Blobs = append(parts.Blobs, below.Blobs...)
	}
	return parts, nil
}

// inOrder looks at things side by side, a few at a time, and calls each for what it found, one after
// the other.
func inOrder[T, Found any](
	ctx context.Context, things []T, look func(context.Context, T) (Found, error), each func(Found) error,
) error {
	looking, ctx := errgroup.WithContext(ctx)
	found := make(chan Found)
	looking.Go(func() error {
		defer close(found)
		some, ctx := errgroup.WithContext(ctx)
		some.SetLimit(inventoryAtOnce)
		for _, thing := range things {
			some.Go(func() error {
				one, err := look(ctx, thing)
				if err != nil {
					return err
				}
				select {
				case found <- one:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		}
		return some.Wait()
	})
	looking.Go(func() error {
		for one := range found {
			if err := each(one); err != nil {
				return err
			}
		}
		return nil
	})
	return looking.Wait()
}
