package middleware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
)

// A target is the repository that an image is committed into. Its writes go through whatever wraps the repository, so that they are
// notified like pushes.
type target struct {
	distribution.Repository
	blobs distribution.BlobStatter // of the whole registry, never cached
}

// Mount links a blob that the registry has into the repository. It is false if the registry does not have it.
func (t target) Mount(ctx context.Context, dgst digest.Digest) (bool, error) {
	stat, err := t.blobs.Stat(ctx, dgst)
	if errors.Is(err, distribution.ErrBlobUnknown) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for blob %s: %w", dgst, err)
	}
	from, err := reference.WithDigest(reference.TrimNamed(t.Named()), dgst)
	if err != nil {
		return false, err
	}
	writer, err := t.Blobs(ctx).Create(ctx, storage.WithMountFrom(from), mountOf(stat))
	if errors.As(err, new(distribution.ErrBlobMounted)) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("mounting blob %s: %w", dgst, err)
	}
	return false, errors.Join(fmt.Errorf("mounting blob %s: the storage began an upload", dgst), writer.Cancel(ctx))
}

// mountOf lets a blob be mounted without asking any repository for it: it was just found in the registry.
type mountOf v1.Descriptor

func (m mountOf) Apply(options any) error {
	create, ok := options.(*distribution.CreateOptions)
	if !ok {
		return fmt.Errorf("unexpected options type: %T", options)
	}
	create.Mount.Stat = (*v1.Descriptor)(&m)
	return nil
}

// Upload stores what write writes, as a stream. Nothing is kept of it if write fails.
func (t target) Upload(ctx context.Context, write func(io.Writer) (digest.Digest, error)) (err error) {
	upload, err := t.Blobs(ctx).Create(ctx)
	if err != nil {
		return fmt.Errorf("beginning an upload: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, upload.Cancel(context.WithoutCancel(ctx)))
		}
	}()
	// A single ReadFrom, as not every driver takes several writes.
	reader, writer := io.Pipe()
	stored := make(chan error, 1)
	go func() {
		_, err := upload.ReadFrom(reader)
		reader.CloseWithError(err)
		stored <- err
	}()
	dgst, err := write(writer)
	writer.CloseWithError(err)
	if storeErr := <-stored; err == nil && storeErr != nil {
		err = fmt.Errorf("storing a blob: %w", storeErr)
	}
	if err != nil {
		return err
	}
	if _, err := upload.Commit(ctx, v1.Descriptor{Digest: dgst}); err != nil {
		return fmt.Errorf("committing blob %s: %w", dgst, err)
	}
	return nil
}

// Put stores a small blob, such as a config.
func (t target) Put(ctx context.Context, mediaType string, content []byte) error {
	if _, err := t.Blobs(ctx).Put(ctx, mediaType, content); err != nil {
		return fmt.Errorf("storing a %s: %w", mediaType, err)
	}
	return nil
}

// commit stores an image's manifests, those in an index before it, then the record of what built them, and then tags: whoever sees a tag sees the image, and
// knows that it was built.
func (s *Service) commit(ctx context.Context, repo distribution.Repository, image nixbuilder.Image, tags []string) error {
	// The builder has just stored or mounted every blob. The registry would look for each of them again, one after the other.
	manifests, err := repo.Manifests(ctx, storage.SkipLayerVerification())
	if err != nil {
		return err
	}
	for _, child := range image.Children {
		if err := putManifest(ctx, manifests, child); err != nil {
			return err
		}
	}
	record := built{
		Source: image.Source, Revision: image.Revision, Nix: image.NixVersion, Index: len(image.Children) > 0, Missing: image.Missing, At: time.Now().UTC(),
	}
	if err := putManifest(ctx, manifests, image.Manifest, distribution.WithTag(tags[0])); err != nil {
		return err
	}
	for _, tag := range tags {
		if _, pushed, err := s.lookUp(ctx, repo, tag); err != nil || pushed {
			if err != nil {
				return err
			}
			continue // meanwhile, and a pushed tag is never replaced
		}
		if err := s.built.Put(ctx, builtKey(repo, tag, image.Manifest.Digest), record); err != nil {
			return err
		}
		desc := v1.Descriptor{MediaType: image.Manifest.MediaType, Digest: image.Manifest.Digest, Size: int64(len(image.Manifest.Payload))}
		if err := repo.Tags(ctx).Tag(ctx, tag, desc); err != nil {
			return fmt.Errorf("tagging %s:%s: %w", repo.Named().Name(), tag, err)
		}
	}
	return nil
}

func putManifest(ctx context.Context, manifests distribution.ManifestService, m nixbuilder.Manifest, options ...distribution.ManifestServiceOption) error {
	parsed, _, err := distribution.UnmarshalManifest(m.MediaType, m.Payload)
	if err != nil {
		return fmt.Errorf("parsing own manifest: %w", err)
	}
	stored, err := manifests.Put(ctx, parsed, options...)
	if err != nil {
		return fmt.Errorf("storing manifest %s: %w", m.Digest, err)
	}
	if stored != m.Digest {
		return fmt.Errorf("storing manifest %s: it became %s", m.Digest, stored)
	}
	return nil
}

// lookUp tells what a tag points to: a stored image that Nix built, or one that was pushed, or, with an empty digest and neither,
// nothing.
func (s *Service) lookUp(ctx context.Context, repo distribution.Repository, tag string) (image stored, pushed bool, err error) {
	desc, err := repo.Tags(ctx).Get(ctx, tag)
	if errors.As(err, new(distribution.ErrTagUnknown)) {
		return stored{}, false, nil
	}
	if err != nil {
		return stored{}, false, fmt.Errorf("looking up %s:%s: %w", repo.Named().Name(), tag, err)
	}
	record, ok, err := s.built.Get(ctx, builtKey(repo, tag, desc.Digest))
	if err != nil {
		return stored{}, false, err
	}
	return stored{digest: desc.Digest, built: record}, !ok, nil
}

// stored is an image that Nix built under a tag.
type stored struct {
	digest digest.Digest
	stale  bool // the package set could not be asked whether there is a newer one
	built
}

// built is what is remembered of a tag that Nix built: the record exists for just the digests that were built for it, so a
// tag that points elsewhere was pushed.
type built struct {
	Source   string `json:"source"`
	Revision string `json:"revision"`
	// Nix is its version, which the image does not have: two hosts make the same image.
	Nix string `json:"nix"`
	// Index says that the tag is for an index, and Missing which platforms it lacks; At is when that was found out.
	Index   bool      `json:"index,omitempty"`
	Missing []string  `json:"missing,omitempty"`
	At      time.Time `json:"at"`
}

func builtKey(repo distribution.Repository, tag string, manifest digest.Digest) string {
	return nixbuilder.Key(repo.Named().Name(), tag, manifest.String())
}
