package imagestore

import (
	"context"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// recordBytes bounds what records take in memory: some 400 bytes each.
const recordBytes = 4 << 20

// Options say how images are stored.
type Options struct {
	// Form is kept in the record of each image: what its bytes depend on beside its packages.
	Form string
	// Format is kept there, too: the version of the bytes of images.
	Format int
	// Tags are those that the operator chose. Among many, they are looked at first.
	Tags []string
	// ReadOnly has Make store nothing. Links are written also then: their image was stored before.
	ReadOnly bool
	// Now is the clock by which tags are removed; nil: time.Now.
	Now func() time.Time
}

func (o Options) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// A Store holds the images of one registry. It is safe for concurrent use.
type Store struct {
	options   Options
	state     state
	blobs     distribution.BlobStatter // of the whole registry, never cached
	buffered  limit.Slots              // blobs in memory that are being stored
	links     *pendingLinks
	lost      *lost
	records   *records.Table[Record]
	forms     *records.Table[formRecord]
	unwritten *weighted.Cache[string, formRecord] // by key
	made      *records.Table[madeRecord]
	vouched   *vouched
}

// New returns the Store of a registry whose blobs and tags are in a storage.
func New(storage driver.StorageDriver, namespace distribution.Namespace, options Options) *Store {
	shared := state{storage}
	return &Store{
		options:   options,
		state:     shared,
		blobs:     namespace.BlobStatter(),
		buffered:  limit.NewSlots(maxBuffered),
		links:     newPendingLinks(shared, namespace),
		lost:      newLost(),
		records:   records.NewTable[Record](shared, "tags", recordBytes),
		forms:     records.NewTable[formRecord](shared, "forms", formBytes),
		unwritten: weighted.New[string, formRecord](unwrittenBytes),
		made:      records.NewTable[madeRecord](shared, "made", madeBytes),
		vouched:   newVouched(),
	}
}

// State keeps records in the storage, where replicas share them.
func (s *Store) State() records.Dated { return s.state }

// Writer begins an image of a repository. What is written goes through repo, so that whatever wraps
// it is notified, as of pushes. The caller calls Close of the Writer in the end.
func (s *Store) Writer(repo distribution.Repository) *Writer {
	return &Writer{Repository: repo, store: s, made: s.links.gate.making()}
}

// Blobs returns the blobs of a repository, with those whose links are pending: the latter are
// linked when they are asked for.
func (s *Store) Blobs(ctx context.Context, repo distribution.Repository) distribution.BlobStore {
	return linkingBlobs{BlobStore: repo.Blobs(ctx), repo: repo, links: s.links, lost: s.lost}
}

// Recover writes the links that killed processes left pending. It is called once, when the process
// starts. Faults are logged.
func (s *Store) Recover(ctx context.Context) { s.links.recover(ctx) }

// Close waits until the pending links of this process are written, or ctx ends.
func (s *Store) Close(ctx context.Context) { s.links.close(ctx) }
