package imagestore

import (
	"context"
	"fmt"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

// A Tag is one that an image gets.
type Tag struct {
	Name string
	// Keeps tells whether the tag stays with an image that was built for it before; nil: it does
	// not. It always stays with a pushed one.
	Keeps func(Image) bool
}

// Commit stores an image whose layers a Writer has, and gives it its tags. All is stored before the
// first tag is written: configs, manifests, layers, the record for each tag, and the log of pending
// links. The first tag is written last: once it is there, nothing is missing of the image.
//
// What is pushed under a tag meanwhile, by whatever process, keeps the tag.
func (s *Store) Commit(ctx context.Context, into *Writer, img image.Image, tags []Tag) error {
	begun := s.options.now()
	end := s.links.commits.begin(into.Named().Name())
	defer end()
	record := Record{
		Source:   img.Source,
		Revision: img.Revision,
		Nix:      img.NixVersion,
		Index:    len(img.Children) > 0,
		Missing:  img.Missing,
		At:       begun.UTC(),
		Form:     s.options.Form,
		Format:   s.options.Format,
	}
	pending, err := s.store(ctx, into, img, tags, record)
	end()
	defer pending.write(ctx)
	if err != nil {
		return err
	}
	var tagging errgroup.Group
	for _, tag := range tags[1:] {
		tagging.Go(func() error { return s.tag(ctx, into, tag, img.Manifest, record, begun) })
	}
	if err := tagging.Wait(); err != nil {
		return err
	}
	return s.tag(ctx, into, tags[0], img.Manifest, record, begun)
}

// store stores all of an image but its tags, side by side. The caller writes the links that are
// pending, also after an error.
func (s *Store) store(
	ctx context.Context, into *Writer, img image.Image, tags []Tag, record Record,
) (pending pendingEntry, err error) {
	// The builder has just stored or found every blob. The registry would look for each of them
	// again, one after the other.
	manifests, err := into.Manifests(ctx, storage.SkipLayerVerification())
	if err != nil {
		return pendingEntry{}, err
	}
	storing, ctx := errgroup.WithContext(ctx)
	storing.Go(into.background.Wait)
	storing.Go(func() (err error) {
		pending, err = s.links.record(ctx, into.Repository, into.mounted)
		return err
	})
	for _, child := range img.Children {
		storing.Go(func() error { return putConfig(ctx, into, child) })
		storing.Go(func() error { return putManifest(ctx, manifests, child) })
	}
	storing.Go(func() error { return putConfig(ctx, into, img.Manifest) })
	storing.Go(func() error {
		return putManifest(ctx, manifests, img.Manifest, distribution.WithTag(tags[0].Name))
	})
	for _, tag := range tags {
		storing.Go(func() error {
			manifest := img.Manifest.Digest
			return s.records.Put(ctx, recordKey(into, tag.Name, manifest), record.of(into, tag.Name, manifest))
		})
	}
	for _, m := range append([]image.Manifest{img.Manifest}, img.Children...) {
		storing.Go(func() error { return s.rememberMade(ctx, into, m.Digest, img.Revision) })
	}
	err = storing.Wait() // before pending is read
	return pending, err
}

// tag points a tag to a manifest, unless somebody has pushed under it since the commit has begun, or
// it stays with what it has.
func (s *Store) tag(
	ctx context.Context, repo distribution.Repository, tag Tag, manifest image.Manifest, record Record, begun time.Time,
) error {
	existing, err := s.LookUp(ctx, repo, tag.Name)
	if err != nil || existing.Pushed {
		return err
	}
	if existing.Digest != "" && tag.Keeps != nil && tag.Keeps(existing) {
		return nil
	}
	desc := v1.Descriptor{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: int64(len(manifest.Payload))}
	if err := repo.Tags(ctx).Tag(ctx, tag.Name, desc); err != nil {
		return fmt.Errorf("tagging %s:%s: %w", repo.Named().Name(), tag.Name, err)
	}
	// Side by side, as both ask the storage.
	var looking errgroup.Group
	looking.Go(func() error { return s.restorePushed(ctx, repo, tag.Name, manifest.Digest, begun) })
	key, record := recordKey(repo, tag.Name, manifest.Digest), record.of(repo, tag.Name, manifest.Digest)
	looking.Go(func() error { return s.records.Ensure(ctx, key, record) }) // a Sweep may have removed it
	return looking.Wait()
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
