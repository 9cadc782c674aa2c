package retention

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// atOnce is how much is asked of the storage at a time: little, as pulls use it, too.
const atOnce = 4

// A survey is what is learned of a registry, one repository after the other.
type survey struct {
	r   *Retention
	now time.Time
	// since is when the watch began.
	since time.Time
	dry   bool
	bytes bool // whether somebody asks for bytes

	blobs map[digest.Digest]*Blob // of built images, where somebody asks
	// pushedOnly are the repositories without built images, and images are those of all others: where
	// somebody asks for bytes.
	pushedOnly []string
	images     []Image

	alive  map[string]struct{} // revisions of images that are there
	result Result
}

// A found repository has built images.
type found struct {
	repo   distribution.Repository
	images []Image
	index  map[digest.Digest]bool // which of them are indexes
	pushed []digest.Digest        // what other tags point to
	// attached are the digests for which something was pushed, by the names of tags.
	attached []digest.Digest
	broken   []string // tags that point to nothing
}

// repository reads the tags of a repository.
func (s *survey) repository(ctx context.Context, name string) (*found, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	f := &found{index: make(map[digest.Digest]bool)}
	if f.repo, err = s.r.namespace.Repository(ctx, named); err != nil {
		return nil, fmt.Errorf("opening repository %s: %w", name, err)
	}
	if !s.dry {
		if err := s.r.store.FinishUntags(ctx, f.repo); err != nil {
			return nil, err
		}
	}
	err = s.r.store.EachTag(ctx, f.repo, func(tagged imagestore.Tagged) error {
		f.add(tagged)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(f.images, func(a, b Image) int { return strings.Compare(a.Tag, b.Tag) })
	return f, s.pulls(ctx, f.images)
}

func (f *found) add(tagged imagestore.Tagged) {
	if source.IsAttached(tagged.Tag) { // sha256-HEX, and what may follow a dot
		algorithm, rest, _ := strings.Cut(tagged.Tag, "-")
		encoded, _, _ := strings.Cut(rest, ".")
		f.attached = append(f.attached, digest.Digest(algorithm+":"+encoded))
	}
	switch {
	case tagged.Digest == "":
		f.broken = append(f.broken, tagged.Tag)
	case tagged.Pushed:
		if !slices.Contains(f.pushed, tagged.Digest) {
			f.pushed = append(f.pushed, tagged.Digest)
		}
	default:
		f.index[tagged.Digest] = tagged.Index
		f.images = append(f.images, Image{
			Repository: f.repo.Named().Name(), Tag: tagged.Tag, Digest: tagged.Digest,
			Revision: tagged.Revision, Built: tagged.At,
		})
	}
}

// pulls tells when images were pulled last, by their tags and their digests.
func (s *survey) pulls(ctx context.Context, images []Image) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	for i := range images {
		image := &images[i]
		image.Held = s.r.options.Held != nil && s.r.options.Held(image.Repository, image.Tag)
		if image.Built.Sub(s.now) > clockSlack { // by a clock that was wrong
			image.Built = s.since
		}
		all.Go(func() error {
			last, err := s.lastPull(ctx, *image)
			image.LastPull = last
			image.Pulled = slices.MaxFunc([]time.Time{last, image.Built, s.since}, time.Time.Compare)
			return err
		})
	}
	return all.Wait()
}

// lastPull returns when an image was pulled last; zero: that is not known.
func (s *survey) lastPull(ctx context.Context, image Image) (time.Time, error) {
	byTag, err := s.r.pulls.last(ctx, pull{image.Repository, image.Tag}, s.now, !s.dry)
	if err != nil {
		return time.Time{}, err
	}
	byDigest, err := s.r.pulls.last(ctx, pull{image.Repository, image.Digest.String()}, s.now, !s.dry)
	if byDigest.After(byTag) {
		return byDigest, err
	}
	return byTag, err
}

// needed marks the images that something pushed refers to: an index, or what was attached to one of
// them or of its children, be that by the name of a tag or as a subject.
func (s *survey) needed(ctx context.Context, f *found) error {
	needed := make(map[digest.Digest]struct{})
	for _, manifest := range f.attached {
		needed[manifest] = struct{}{}
	}
	pushed := slices.Clone(f.pushed)
	err := s.r.store.EachManifest(ctx, f.repo, func(stored imagestore.Stored) error {
		if _, built := f.index[stored.Digest]; !built && !stored.Made && !slices.Contains(pushed, stored.Digest) {
			pushed = append(pushed, stored.Digest)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, manifest := range pushed {
		parts, err := s.r.store.PartsOf(ctx, f.repo, manifest)
		if err != nil {
			return err
		}
		for _, other := range append(parts.Children, parts.Subject) {
			needed[other] = struct{}{}
		}
		s.push(parts)
	}
	return s.mark(ctx, f, needed)
}

// mark marks images whose digest is needed, or that of a child.
func (s *survey) mark(ctx context.Context, f *found, needed map[digest.Digest]struct{}) error {
	if delete(needed, ""); len(needed) == 0 {
		return nil
	}
	marked := make(map[digest.Digest]bool)
	for manifest, isIndex := range f.index {
		if _, marked[manifest] = needed[manifest]; marked[manifest] || !isIndex {
			continue
		}
		parts, err := s.r.store.PartsOf(ctx, f.repo, manifest)
		if err != nil {
			return err
		}
		marked[manifest] = slices.ContainsFunc(parts.Children, func(child digest.Digest) bool {
			_, ok := needed[child]
			return ok
		})
	}
	for i := range f.images {
		f.images[i].Needed = marked[f.images[i].Digest]
	}
	return nil
}

// push marks the blobs of something pushed.
func (s *survey) push(parts imagestore.Parts) {
	if !s.bytes {
		return
	}
	for _, part := range parts.Blobs {
		s.blob(part.Digest, part.Size).Pushed = true
	}
}

func (s *survey) blob(dgst digest.Digest, size int64) *Blob {
	blob := s.blobs[dgst]
	if blob == nil {
		blob = &Blob{Size: size}
		s.blobs[dgst] = blob
	}
	return blob
}

// sizes tells which blobs images have.
func (s *survey) sizes(ctx context.Context, f *found) error {
	if !s.bytes {
		return nil
	}
	blobs := make(map[digest.Digest][]*Blob, len(f.index))
	for manifest := range f.index {
		parts, err := s.r.store.PartsOf(ctx, f.repo, manifest)
		if err != nil {
			return err
		}
		for _, part := range parts.Blobs {
			if blob := s.blob(part.Digest, part.Size); !slices.Contains(blobs[manifest], blob) {
				blobs[manifest] = append(blobs[manifest], blob)
			}
		}
	}
	for i := range f.images {
		f.images[i].Blobs = blobs[f.images[i].Digest]
	}
	return nil
}

// shared marks the blobs that repositories without built images have, too. Of these, no manifest is
// read.
func (s *survey) shared(ctx context.Context) error {
	if !s.bytes {
		return nil
	}
	for _, name := range s.pushedOnly {
		linked, err := s.r.store.Linked(ctx, name)
		if err != nil {
			return err
		}
		for _, dgst := range linked {
			if blob := s.blobs[dgst]; blob != nil {
				blob.Pushed = true
			}
		}
	}
	return nil
}
