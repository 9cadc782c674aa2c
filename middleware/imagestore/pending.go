package imagestore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/middleware/collection"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

const (
	// linksKind is where the log of pending links is in the state.
	linksKind = "links"
	// linksAtOnce is how many links of an image are written at a time.
	linksAtOnce = 16
	// maxPendingImages is how many images may have pending links. The next one waits with its
	// commit, so that builds do not outrun the storage.
	maxPendingImages = 8
	// linkPatience is how long the links of an image give way to images that are being made.
	linkPatience = time.Second / 2
)

// pendingLinks is the write-ahead log of links. It is safe for concurrent use.
type pendingLinks struct {
	state     state
	namespace distribution.Namespace
	images    limit.Slots // with pending links
	gate      *idleGate
	commits   inFlightCommits
	writing   sync.WaitGroup
}

func newPendingLinks(state state, namespace distribution.Namespace) *pendingLinks {
	return &pendingLinks{
		state: state, namespace: namespace, images: limit.NewSlots(maxPendingImages), gate: newIdleGate(),
	}
}

// An entry of the log names the layers that an image needs in its repository.
type entry struct {
	Repository string          `json:"repository"`
	Layers     []v1.Descriptor `json:"layers"`
}

// A pendingEntry is an entry whose links this process will write. The zero value has none.
type pendingEntry struct {
	entry
	links   *pendingLinks
	repo    distribution.Repository
	key     string // empty: there are no links to write
	release func() // gives back the slot of the image
}

// record logs that an image needs layers in a repository. The caller calls write when it has stored
// the image, or could not.
func (p *pendingLinks) record(
	ctx context.Context, repo distribution.Repository, layers []v1.Descriptor,
) (pendingEntry, error) {
	if len(layers) == 0 {
		return pendingEntry{}, nil
	}
	name := repo.Named().Name()
	e := pendingEntry{
		entry: entry{Repository: name, Layers: layers},
		links: p,
		repo:  repo,
		key:   linksKind + "/" + entryPrefix(name) + strings.ToLower(rand.Text()),
	}
	var err error
	if e.release, err = p.acquire(ctx); err != nil {
		return pendingEntry{}, err
	}
	record, err := json.Marshal(e.entry)
	if err == nil {
		err = p.state.Put(ctx, e.key, record)
	}
	if err != nil {
		e.release()
		return pendingEntry{}, fmt.Errorf("recording the layers of an image: %w", err)
	}
	return e, nil
}

// acquire takes a slot for an image. If there is none, those that have one need not give way any
// longer.
func (p *pendingLinks) acquire(ctx context.Context) (release func(), err error) {
	if release, ok := p.images.TryAcquire(); ok {
		return release, nil
	}
	defer p.gate.urgent()()
	return p.images.Acquire(ctx)
}

// entryPrefix is what the names of a repository's entries begin with.
func entryPrefix(repository string) string { return records.Key(repository)[:32] + "-" }

// write begins to write the links, and goes on when ctx ends. Should that fail, they stay pending.
func (e pendingEntry) write(ctx context.Context) {
	if e.key == "" {
		return
	}
	ctx = context.WithoutCancel(ctx)
	e.links.writing.Go(func() {
		defer e.release()
		if err := e.links.write(ctx, e.repo, e.key, e.entry); err != nil {
			logrus.WithError(err).Warnf("nix: layers of %s are not linked yet: "+
				"they will be when they are asked for, or at the next start", e.Repository)
		}
	})
}

// write writes the links of an entry, and then removes it from the log.
func (p *pendingLinks) write(ctx context.Context, repo distribution.Repository, key string, e entry) error {
	patience, cancel := context.WithTimeout(ctx, linkPatience)
	defer cancel()
	all, allCtx := errgroup.WithContext(ctx)
	all.SetLimit(linksAtOnce)
	for _, layer := range e.Layers {
		all.Go(func() error {
			p.gate.wait(patience.Done())
			return link(allCtx, repo, layer)
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return p.state.Delete(ctx, key)
}

// link is Link for a blob that the log names: that is not collected, and may be linked also while
// others are.
func link(ctx context.Context, repo distribution.Repository, blob v1.Descriptor) error {
	return Link(collection.InUse(ctx), repo, blob)
}

// Link makes a blob of the registry part of a repository, without copying it.
func Link(ctx context.Context, repo distribution.Repository, blob v1.Descriptor) error {
	from, err := reference.WithDigest(reference.TrimNamed(repo.Named()), blob.Digest)
	if err != nil {
		return err
	}
	writer, err := repo.Blobs(ctx).Create(ctx, storage.WithMountFrom(from), MountOf(blob))
	if errors.As(err, new(distribution.ErrBlobMounted)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mounting blob %s: %w", blob.Digest, err)
	}
	return errors.Join(fmt.Errorf("mounting blob %s: the storage began an upload", blob.Digest), writer.Cancel(ctx))
}

// MountOf mounts a blob that was found in the registry, without asking any repository for it. It goes
// with storage.WithMountFrom.
type MountOf v1.Descriptor

// Apply implements distribution.BlobCreateOption.
func (m MountOf) Apply(options any) error {
	create, ok := options.(*distribution.CreateOptions)
	if !ok {
		return fmt.Errorf("unexpected options type: %T", options)
	}
	create.Mount.Stat = (*v1.Descriptor)(&m)
	return nil
}

// linkNow writes the link of a single layer, if it is pending in a repository.
func (p *pendingLinks) linkNow(ctx context.Context, repo distribution.Repository, dgst digest.Digest) error {
	if err := p.commits.wait(ctx, repo.Named().Name()); err != nil {
		return err
	}
	names, err := p.state.List(ctx, linksKind)
	if err != nil {
		return fmt.Errorf("listing pending links: %w", err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, entryPrefix(repo.Named().Name())) {
			continue
		}
		e, err := p.read(ctx, linksKind+"/"+name)
		if err != nil {
			return err
		}
		for _, layer := range e.Layers {
			if layer.Digest == dgst {
				defer p.gate.urgent()() // the client will ask for the others, too
				return link(ctx, repo, layer)
			}
		}
	}
	return nil
}

// read returns an entry. One that was written meanwhile is empty, and so is a damaged one.
func (p *pendingLinks) read(ctx context.Context, key string) (e entry, err error) {
	record, err := p.state.Get(ctx, key)
	if errors.Is(err, records.ErrNotFound) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, fmt.Errorf("reading record %s: %w", key, err)
	}
	err = json.Unmarshal(record, &e)
	for _, layer := range e.Layers {
		err = errors.Join(err, layer.Digest.Validate())
	}
	if err != nil {
		logrus.WithError(err).Warnf("nix: record %s is damaged", key)
		return entry{}, nil
	}
	return e, nil
}

// recover writes the links of all entries in the log. Another replica may be writing some of them:
// to write them twice does no harm.
func (p *pendingLinks) recover(ctx context.Context) {
	names, err := p.state.List(ctx, linksKind)
	if err != nil {
		logrus.WithError(err).Warn("nix: pending links can't be listed")
	}
	for _, name := range names {
		if err := p.recoverEntry(ctx, linksKind+"/"+name); err != nil {
			logrus.WithError(err).Warn("nix: layers of an image are still not linked: " +
				"they will be when they are asked for, or at the next start")
		}
	}
}

func (p *pendingLinks) recoverEntry(ctx context.Context, key string) error {
	e, err := p.read(ctx, key)
	if err != nil {
		return err
	}
	named, err := reference.WithName(e.Repository)
	if err != nil {
		return p.state.Delete(ctx, key) // it is damaged, or written meanwhile
	}
	repo, err := p.namespace.Repository(ctx, named)
	if err != nil {
		return fmt.Errorf("opening repository %s: %w", e.Repository, err)
	}
	return p.write(ctx, repo, key, e)
}

// close waits until the links are written, or ctx ends.
func (p *pendingLinks) close(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		p.writing.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// linkingBlobs are a repository's blobs, and those whose links are pending. It writes these links
// also in read-only mode: their image was stored before.
type linkingBlobs struct {
	distribution.BlobStore
	repo  distribution.Repository
	links *pendingLinks
	lost  *lost
}

// Stat is what the registry calls before it serves a blob, or says that it has it.
func (b linkingBlobs) Stat(ctx context.Context, dgst digest.Digest) (v1.Descriptor, error) {
	desc, err := b.BlobStore.Stat(ctx, dgst)
	if !errors.Is(err, distribution.ErrBlobUnknown) {
		return desc, err
	}
	if err := b.links.linkNow(ctx, b.repo, dgst); err != nil {
		return v1.Descriptor{}, err
	}
	desc, err = b.BlobStore.Stat(ctx, dgst) // the link may also have been written since the first look
	if errors.Is(err, distribution.ErrBlobUnknown) {
		b.lost.Add(b.repo.Named().Name(), dgst)
	}
	return desc, err
}
