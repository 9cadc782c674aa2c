package middleware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// A target is the repository that an image is committed into. Its writes go through whatever wraps
// the repository, so that they are notified like pushes.
type target struct {
	distribution.Repository
	blobs   distribution.BlobStatter // of the whole registry, never cached
	held    chan struct{}            // a token for each blob in memory that is being stored, of the whole registry
	storing errgroup.Group           // what is being done beside, for this image

	mu      sync.Mutex
	mounted []v1.Descriptor // to be linked when the image is served
}

// Mount makes a blob that the registry has part of the image. It is false if the registry does not
// have it.
func (t *target) Mount(ctx context.Context, dgst digest.Digest) (bool, error) {
	stat, err := t.blobs.Stat(ctx, dgst)
	if errors.Is(err, distribution.ErrBlobUnknown) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for blob %s: %w", dgst, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mounted = append(t.mounted, stat)
	return true, nil
}

const (
	// heldBytes is how large a blob may be to be held in memory and stored in one piece. An upload
	// asks the storage three times as often.
	heldBytes = 1 << 20
	// heldAtOnce is how many such blobs are being stored at a time.
	heldAtOnce = 4
)

// Upload stores what write writes. Up to heldBytes are held in memory, and stored after Upload has
// returned: their digest is known, so that what refers to them can be written meanwhile. What is
// larger is a stream. Nothing is kept of it if write fails.
func (t *target) Upload(
	ctx context.Context, write func(io.Writer) (digest.Digest, error),
	done func(context.Context, error) error,
) error {
	var held []byte
	var stream *upload // nil: all is held
	dgst, err := write(writerFunc(func(p []byte) (int, error) {
		if stream == nil && len(held)+len(p) <= heldBytes {
			if held != nil {
				held = slices.Grow(held, heldBytes-len(held)) // once: most blobs are written in one piece
			}
			held = append(held, p...)
			return len(p), nil
		}
		if stream == nil {
			var err error
			if stream, err = t.begin(ctx); err != nil {
				return 0, err
			}
			if _, err := stream.pipe.Write(held); err != nil {
				return 0, err
			}
			held = nil
		}
		return stream.pipe.Write(p)
	}))
	if stream != nil {
		return done(ctx, stream.end(ctx, dgst, err))
	}
	if err != nil {
		return done(ctx, err)
	}
	select {
	case t.held <- struct{}{}:
	case <-ctx.Done():
		return done(ctx, context.Cause(ctx))
	}
	t.Go(ctx, func(ctx context.Context) error {
		defer func() { <-t.held }()
		return done(ctx, t.put(ctx, dgst, held))
	})
	return nil
}

// Go does something that the commit waits for.
func (t *target) Go(ctx context.Context, do func(context.Context) error) {
	ctx = context.WithoutCancel(ctx) // it outlives the packing
	t.storing.Go(func() error { return do(ctx) })
}

func (t *target) put(ctx context.Context, dgst digest.Digest, blob []byte) error {
	desc, err := t.Blobs(ctx).Put(ctx, "application/octet-stream", blob)
	if err != nil {
		return fmt.Errorf("storing blob %s: %w", dgst, err)
	}
	if desc.Digest != dgst {
		return fmt.Errorf("storing blob %s: it became %s", dgst, desc.Digest)
	}
	return nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// An upload is a stream into the storage.
type upload struct {
	blob   distribution.BlobWriter
	pipe   *io.PipeWriter
	stored chan error // how the reading end ended
}

func (t *target) begin(ctx context.Context) (*upload, error) {
	blob, err := t.Blobs(ctx).Create(ctx)
	if err != nil {
		return nil, fmt.Errorf("beginning an upload: %w", err)
	}
	reader, writer := io.Pipe()
	u := &upload{blob, writer, make(chan error, 1)}
	go func() {
		_, err := blob.ReadFrom(reader) // a single one, as not every driver takes several writes
		reader.CloseWithError(err)
		u.stored <- err
	}()
	return u, nil
}

// end commits what was written, unless that failed.
func (u *upload) end(ctx context.Context, dgst digest.Digest, err error) error {
	u.pipe.CloseWithError(err)
	if storeErr := <-u.stored; err == nil && storeErr != nil {
		err = fmt.Errorf("storing a blob: %w", storeErr)
	}
	if err == nil {
		if _, err = u.blob.Commit(ctx, v1.Descriptor{Digest: dgst}); err == nil {
			return nil
		}
		err = fmt.Errorf("committing blob %s: %w", dgst, err)
	}
	return errors.Join(err, u.blob.Cancel(context.WithoutCancel(ctx)))
}

// commit stores an image's configs and manifests, and the records of what built them and of the
// links that it is owed, and sees the last of its layers stored. Then it tags: whoever sees a tag
// sees the image, and knows that it was built. What it left when it was killed before that, nobody
// sees.
func (s *Service) commit(ctx context.Context, repo *target, image image.Image, tags []string) error {
	// The builder has just stored or found every blob. The registry would look for each of them
	// again, one after the other.
	manifests, err := repo.Manifests(ctx, storage.SkipLayerVerification())
	if err != nil {
		return err
	}
	end := s.links.commits.begin(repo.Named().Name())
	defer end()
	storing, storingCtx := errgroup.WithContext(ctx)
	storing.Go(repo.storing.Wait)
	var debt debt
	storing.Go(func() (err error) {
		debt, err = s.links.owe(storingCtx, repo.Repository, repo.mounted)
		return err
	})
	for _, child := range image.Children {
		storing.Go(func() error { return putConfig(storingCtx, repo, child) })
		storing.Go(func() error { return putManifest(storingCtx, manifests, child) })
	}
	storing.Go(func() error { return putConfig(storingCtx, repo, image.Manifest) })
	storing.Go(
		func() error { return putManifest(storingCtx, manifests, image.Manifest, distribution.WithTag(tags[0])) },
	)
	record := built{
		Source: image.Source, Revision: image.Revision, Nix: image.NixVersion, Index: len(image.Children) > 0, Missing: image.Missing, At: time.Now().UTC(), Form: s.form,
	}
	for _, tag := range tags {
		storing.Go(func() error { return s.built.Put(storingCtx, builtKey(repo, tag, image.Manifest.Digest), record) })
	}
	err = storing.Wait()
	end()
	defer debt.pay(ctx)
	if err != nil {
		return err
	}
	tagging, ctx := errgroup.WithContext(ctx)
	for i, tag := range tags {
		tagging.Go(func() error { return s.tag(ctx, repo, tag, i > 0, image.Manifest) })
	}
	return tagging.Wait()
}

// tag has a tag stand for a manifest, unless it was pushed meanwhile, which is never replaced, or
// keep says that it is to stay what it is and it is whole.
func (s *Service) tag(
	ctx context.Context, repo distribution.Repository, tag string, keep bool, manifest image.Manifest,
) error {
	existing, pushed, err := s.lookUp(ctx, repo, tag)
	if err != nil || pushed || keep && existing.digest != "" && !s.due(existing) {
		return err
	}
	desc := v1.Descriptor{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: int64(len(manifest.Payload))}
	if err := repo.Tags(ctx).Tag(ctx, tag, desc); err != nil {
		return fmt.Errorf("tagging %s:%s: %w", repo.Named().Name(), tag, err)
	}
	return nil
}

// putConfig stores the config of a manifest, if it has one.
func putConfig(ctx context.Context, repo distribution.Repository, m image.Manifest) error {
	if m.Config == nil {
		return nil
	}
	if _, err := repo.Blobs(ctx).Put(ctx, v1.MediaTypeImageConfig, m.Config); err != nil {
		return fmt.Errorf("storing the config of manifest %s: %w", m.Digest, err)
	}
	return nil
}

func putManifest(
	ctx context.Context, manifests distribution.ManifestService, m image.Manifest,
	options ...distribution.ManifestServiceOption,
) error {
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

// lookUp tells what a tag points to: a stored image that Nix built, or one that was pushed, or,
// with an empty digest and neither, nothing.
func (s *Service) lookUp(
	ctx context.Context, repo distribution.Repository, tag string,
) (image stored, pushed bool, err error) {
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

// built is what is remembered of a tag that Nix built: the record exists for just the digests that
// were built for it, so a tag that points elsewhere was pushed.
type built struct {
	Source   string `json:"source"`
	Revision string `json:"revision"`
	// Nix is its version, which the image does not have: two hosts make the same image.
	Nix string `json:"nix"`
	// Index says that the tag is for an index, and Missing which platforms it lacks; At is when
	// that was found out.
	Index   bool      `json:"index,omitempty"`
	Missing []string  `json:"missing,omitempty"`
	At      time.Time `json:"at"`
	// Form is Options.form; empty in records from before there was one, which is believed to be the
	// present one.
	Form string `json:"form,omitempty"`
}

func builtKey(repo distribution.Repository, tag string, manifest digest.Digest) string {
	return records.Key(repo.Named().Name(), tag, manifest.String())
}
