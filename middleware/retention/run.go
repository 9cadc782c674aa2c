package retention

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

const (
	// recentRecords is how long records stay in any case: whoever uses one may have just read it.
	recentRecords = 7 * 24 * time.Hour
	// pinnedRecords is how long an image that was removed is built again for who has pinned its digest.
	pinnedRecords = 90 * 24 * time.Hour
)

// Options say what stays.
type Options struct {
	Limits Limits
	// Held tells whether the operator wants a tag to be there; nil: none.
	Held func(repository, tag string) bool
	// Revisions are those that the package set is at now.
	Revisions func() []string
	// Lease has one replica at a time do a piece of work; nil: all may.
	Lease func(ctx context.Context, key string) (release func(), ok bool)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// A Retention removes images of one registry. It is safe for concurrent use, also by other processes:
// what two of them do at a time is done once.
type Retention struct {
	options   Options
	store     *imagestore.Store
	namespace distribution.Namespace
	pulls     *Pulls
	watch     watchRecord
}

// New returns the Retention of a registry. It does nothing before it is told to.
func New(store *imagestore.Store, namespace distribution.Namespace, options Options) *Retention {
	if options.Now == nil {
		options.Now = time.Now
	}
	return &Retention{
		options: options, store: store, namespace: namespace,
		pulls: newPulls(store.State(), store.Built, options.Now), watch: newWatchRecord(store.State()),
	}
}

// A Result is what a run has found and done.
type Result struct {
	Images   int // tags of built images, before
	Removals []Removal
	Bytes    int64          // of the Removals, where they were asked for
	Records  map[string]int // that were removed, by kind
	// Since is when registries began to record pulls: no image counts as pulled earlier. It is zero if
	// none does.
	Since time.Time
}

// Plan tells what Run would remove, with the bytes. It changes nothing.
func (r *Retention) Plan(ctx context.Context) (Result, error) {
	return r.run(ctx, true, true)
}

// Run removes what is beyond the limits, and sweeps records. With bytes, it tells how many it freed;
// that takes the memory of all images of the registry at a time, some 500 bytes for a tag and 100 for
// a blob, as Limits.MaxBytes does. Else it is one repository's. Also with an error, the result says
// what was removed.
//
// A run that fails or is killed has removed whole tags. The next one goes on where it is needed.
func (r *Retention) Run(ctx context.Context, bytes bool) (Result, error) {
	return r.run(ctx, false, bytes)
}

func (r *Retention) run(ctx context.Context, dry, bytes bool) (Result, error) {
	now := r.options.Now()
	watch, err := r.watch.read(ctx, now)
	if err != nil {
		return Result{}, err
	}
	s := &survey{
		r: r, now: now, since: watch.Since, dry: dry, bytes: bytes || r.options.Limits.MaxBytes > 0,
		blobs: make(map[digest.Digest]*Blob), alive: make(map[string]struct{}),
	}
	if watch.Since.Before(now) {
		s.result.Since = watch.Since
	}
	err = r.eachRepository(ctx, func(name string) error { return s.take(ctx, name) })
	if err == nil && s.bytes {
		if err = s.shared(ctx); err == nil {
			err = s.carry(ctx, s.images)
		}
	}
	if err == nil && !dry {
		s.result.Records, err = r.sweep(ctx, now, s.alive)
	}
	return s.result, err
}

// take surveys a repository, and removes what goes of it. Where bytes are asked for, that is decided
// when all repositories are known.
func (s *survey) take(ctx context.Context, name string) error {
	f, err := s.repository(ctx, name)
	if err != nil {
		return err
	}
	s.result.Images += len(f.images)
	if !s.dry {
		if err := s.r.tidy(ctx, f); err != nil {
			return err
		}
	}
	switch {
	case len(f.images) == 0:
		if s.bytes {
			s.pushedOnly = append(s.pushedOnly, name)
		}
		return nil
	case s.bytes:
		if err := s.sizes(ctx, f); err != nil {
			return err
		}
		err := s.needed(ctx, f)
		s.images = append(s.images, f.images...)
		return err
	case len(Decide(f.images, s.r.options.Limits, s.now)) > 0:
		if err := s.needed(ctx, f); err != nil {
			return err
		}
	}
	return s.carry(ctx, f.images)
}

// eachRepository calls each for every repository that has manifests.
func (r *Retention) eachRepository(ctx context.Context, each func(name string) error) error {
	repositories, ok := r.namespace.(distribution.RepositoryEnumerator)
	if !ok {
		return fmt.Errorf("a %T does not list its repositories", r.namespace)
	}
	began := false
	err := repositories.Enumerate(ctx, func(name string) error {
		began = true
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return each(name)
	})
	if !began && errors.As(err, new(driver.PathNotFoundError)) {
		return nil // nobody has pushed or built anything
	}
	return err
}

// tidy finishes what was begun to be removed, and takes from the indexes of tags what these pointed
// to once.
func (r *Retention) tidy(ctx context.Context, f *found) error {
	for _, tag := range f.broken {
		if _, err := r.store.Untag(ctx, f.repo, tag, ""); err != nil {
			return err
		}
	}
	for _, image := range f.images {
		if image.moves() {
			if err := r.store.TrimTag(ctx, f.repo, image.Tag, image.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// carry decides, and removes tags, but for those that somebody has pulled, pushed or built meanwhile.
func (s *survey) carry(ctx context.Context, images []Image) error {
	for _, image := range images {
		s.alive[image.Revision] = struct{}{}
	}
	for _, removal := range Decide(images, s.r.options.Limits, s.now) {
		if !s.dry {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			removed, err := s.r.remove(ctx, s, removal.Image)
			if err != nil {
				return err
			}
			if !removed {
				continue
			}
			logrus.Infof("nix: removed %s:%s, %s", removal.Repository, removal.Tag, removal.Reason)
		}
		s.result.Removals = append(s.result.Removals, removal)
		s.result.Bytes += removal.Bytes
	}
	return nil
}

func (r *Retention) remove(ctx context.Context, s *survey, image Image) (removed bool, err error) {
	last, err := s.lastPull(ctx, image)
	if err != nil || !last.Equal(image.LastPull) {
		return false, err
	}
	named, err := reference.WithName(image.Repository)
	if err != nil {
		return false, err
	}
	repo, err := r.namespace.Repository(ctx, named)
	if err != nil {
		return false, err
	}
	return r.store.Untag(ctx, repo, image.Tag, image.Digest)
}

// sweep removes records of what is not there any more. Alive are the revisions of images that are.
func (r *Retention) sweep(ctx context.Context, now time.Time, alive map[string]struct{}) (map[string]int, error) {
	if r.options.Revisions != nil {
		for _, revision := range r.options.Revisions() {
			alive[revision] = struct{}{}
		}
	}
	recent, old := now.Add(-recentRecords), now.Add(-pinnedRecords)
	pinned := maps.Clone(alive)
	removed, err := r.store.Sweep(ctx, imagestore.Sweep{
		Tags: recent, Pinned: old, Made: func(revision string) { pinned[revision] = struct{}{} },
	})
	if err != nil {
		return removed, err
	}
	removed[pullsKind], err = records.Sweep[pullRecord]{
		Kind: pullsKind, Before: recent,
		Gone: func(ctx context.Context, record pullRecord) (bool, error) {
			there, err := r.store.Has(ctx, record.Repository, record.Reference)
			return !there, err
		},
	}.Run(ctx, r.store.State())
	if err != nil {
		return removed, err
	}
	others, err := nixbuilder.Sweep{
		Revisions: alive, Pinned: pinned, Recent: recent, Old: old, Stored: r.stored,
	}.Run(ctx, r.store.State())
	maps.Copy(removed, others)
	return removed, err
}

// stored tells whether the registry has a blob.
func (r *Retention) stored(ctx context.Context, blob digest.Digest) (bool, error) {
	_, err := r.namespace.BlobStatter().Stat(ctx, blob)
	if errors.Is(err, distribution.ErrBlobUnknown) {
		return false, nil
	}
	return err == nil, err
}

// Kinds lists the kinds of the records that were removed, sorted.
func (r Result) Kinds() []string { return slices.Sorted(maps.Keys(r.Records)) }
