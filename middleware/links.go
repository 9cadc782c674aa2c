package middleware

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

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

const (
	// linksKind is where the records are of links that are owed.
	linksKind = "links"
	// linksAtOnce is how many links of an image are written at a time.
	linksAtOnce = 16
	// imagesLinked is how many images may be owed links: the next one waits with its commit, so
	// that builds do not outrun the storage.
	imagesLinked = 8
	// linkPatience is how long the links of an image give way to images that are being made.
	linkPatience = time.Second / 2
)

// links makes layers that the registry has part of the repositories of images that need them.
// Upstream's storage has a link for each, up to 94 for an image, and each waits for a disk or an
// object store. So they are written when the image is served already, as a database does with its
// write-ahead log: a record says which links are owed before anybody can see the image. Who is
// asked for a layer whose link is owed, in any replica, writes it; and who starts pays what one
// that was killed still owed. It is safe for concurrent use.
type links struct {
	records   state
	namespace distribution.Namespace
	slots     chan struct{} // a token for each image that is owed links
	gate      *gate
	commits   commits
	paying    sync.WaitGroup
}

func newLinks(records state, namespace distribution.Namespace) *links {
	return &links{records: records, namespace: namespace, slots: make(chan struct{}, imagesLinked), gate: newGate()}
}

// owed is the record of layers that an image needs in its repository.
type owed struct {
	Repository string          `json:"repository"`
	Layers     []v1.Descriptor `json:"layers"`
}

// A debt is an image's owed links while they are written.
type debt struct {
	owed
	links *links
	repo  distribution.Repository
	key   string // empty: nothing is owed
}

// owe records that an image of a repository needs layers. The caller pays when it has stored the
// image, or could not.
func (l *links) owe(ctx context.Context, repo distribution.Repository, layers []v1.Descriptor) (debt, error) {
	if len(layers) == 0 {
		return debt{}, nil
	}
	name := repo.Named().Name()
	key := linksKind + "/" + owedTo(name) + strings.ToLower(rand.Text())
	d := debt{owed: owed{Repository: name, Layers: layers}, links: l, repo: repo, key: key}
	if err := l.enter(ctx); err != nil {
		return debt{}, err
	}
	record, err := json.Marshal(d.owed)
	if err == nil {
		err = l.records.Put(ctx, d.key, record)
	}
	if err != nil {
		<-l.slots
		return debt{}, fmt.Errorf("recording the layers of an image: %w", err)
	}
	return d, nil
}

// enter takes a slot, and hurries those that have one if there is none.
func (l *links) enter(ctx context.Context) error {
	select {
	case l.slots <- struct{}{}:
		return nil
	default:
	}
	defer l.gate.hurry()()
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// owedTo is what the records of a repository begin with.
func owedTo(repository string) string { return records.Key(repository)[:32] + "-" }

// pay begins to write the links. Should that fail, they stay owed.
func (d debt) pay(ctx context.Context) {
	if d.key == "" {
		return
	}
	ctx = context.WithoutCancel(ctx)
	d.links.paying.Go(func() {
		defer func() { <-d.links.slots }()
		err := safely(ctx, func(ctx context.Context) error { return d.links.settle(ctx, d.repo, d.key, d.owed) })
		if err != nil {
			logrus.WithError(err).
				Warnf(
					"nix: layers of %s are not linked yet: they will be when they are asked for, or at the next start",
					d.Repository,
				)
		}
	})
}

// settle writes links and then forgets that they were owed.
func (l *links) settle(ctx context.Context, repo distribution.Repository, key string, o owed) error {
	patience, cancel := context.WithTimeout(ctx, linkPatience)
	defer cancel()
	all, allCtx := errgroup.WithContext(ctx)
	all.SetLimit(linksAtOnce)
	for _, layer := range o.Layers {
		all.Go(func() error {
			l.gate.pass(patience.Done())
			return link(allCtx, repo, layer)
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return l.records.Delete(ctx, key)
}

// link makes a blob of the registry part of a repository.
func link(ctx context.Context, repo distribution.Repository, blob v1.Descriptor) error {
	from, err := reference.WithDigest(reference.TrimNamed(repo.Named()), blob.Digest)
	if err != nil {
		return err
	}
	writer, err := repo.Blobs(ctx).Create(ctx, storage.WithMountFrom(from), mountOf(blob))
	if errors.As(err, new(distribution.ErrBlobMounted)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mounting blob %s: %w", blob.Digest, err)
	}
	return errors.Join(fmt.Errorf("mounting blob %s: the storage began an upload", blob.Digest), writer.Cancel(ctx))
}

// mountOf lets a blob be mounted without asking any repository for it: it was found in the
// registry.
type mountOf v1.Descriptor

func (m mountOf) Apply(options any) error {
	create, ok := options.(*distribution.CreateOptions)
	if !ok {
		return fmt.Errorf("unexpected options type: %T", options)
	}
	create.Mount.Stat = (*v1.Descriptor)(&m)
	return nil
}

// payFor writes the link of a single layer, if a repository is owed it.
func (l *links) payFor(ctx context.Context, repo distribution.Repository, dgst digest.Digest) error {
	if err := l.commits.await(ctx, repo.Named().Name()); err != nil {
		return err
	}
	records, err := l.records.List(ctx, linksKind)
	if err != nil {
		return fmt.Errorf("listing owed links: %w", err)
	}
	for _, name := range records {
		if !strings.HasPrefix(name, owedTo(repo.Named().Name())) {
			continue
		}
		o, err := l.read(ctx, linksKind+"/"+name)
		if err != nil {
			return err
		}
		for _, layer := range o.Layers {
			if layer.Digest == dgst {
				defer l.gate.hurry()() // the client will ask for the others, too
				return link(ctx, repo, layer)
			}
		}
	}
	return nil
}

// read returns a record. One that was settled meanwhile owes nothing, nor does a damaged one.
func (l *links) read(ctx context.Context, key string) (o owed, err error) {
	record, err := l.records.Get(ctx, key)
	if errors.Is(err, records.ErrNotFound) {
		return owed{}, nil
	}
	if err != nil {
		return owed{}, fmt.Errorf("reading record %s: %w", key, err)
	}
	err = json.Unmarshal(record, &o)
	for _, layer := range o.Layers {
		err = errors.Join(err, layer.Digest.Validate())
	}
	if err != nil {
		logrus.WithError(err).Warnf("nix: record %s is damaged", key)
		return owed{}, nil
	}
	return o, nil
}

// resume pays what replicas that were killed still owed. What others are just paying is written
// twice, which does no harm.
func (l *links) resume(ctx context.Context) {
	records, err := l.records.List(ctx, linksKind)
	if err != nil {
		logrus.WithError(err).Warn("nix: links that may be owed can't be listed")
	}
	for _, name := range records {
		if err := l.resumeOne(ctx, linksKind+"/"+name); err != nil {
			logrus.WithError(err).
				Warn("nix: layers of an image are still not linked: they will be when they are asked for, or at the next start")
		}
	}
}

func (l *links) resumeOne(ctx context.Context, key string) error {
	o, err := l.read(ctx, key)
	if err != nil {
		return err
	}
	named, err := reference.WithName(o.Repository)
	if err != nil {
		return l.records.Delete(ctx, key) // it is damaged, or settled
	}
	repo, err := l.namespace.Repository(ctx, named)
	if err != nil {
		return fmt.Errorf("opening repository %s: %w", o.Repository, err)
	}
	return l.settle(ctx, repo, key, o)
}

// close waits for the links that are being written, unless that takes long.
func (l *links) close() {
	done := make(chan struct{})
	go func() {
		l.paying.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(endTime):
	}
}

// linkedBlobs are a repository's blobs, with those whose links are owed. They are written also in
// read-only mode: their image was stored before.
type linkedBlobs struct {
	distribution.BlobStore
	repo  distribution.Repository
	links *links
}

// Stat is what the registry calls before it serves a blob, or says that it has it.
func (b linkedBlobs) Stat(ctx context.Context, dgst digest.Digest) (v1.Descriptor, error) {
	desc, err := b.BlobStore.Stat(ctx, dgst)
	if !errors.Is(err, distribution.ErrBlobUnknown) {
		return desc, err
	}
	if err := b.links.payFor(ctx, b.repo, dgst); err != nil {
		return v1.Descriptor{}, err
	}
	return b.BlobStore.Stat(ctx, dgst) // also if it was owed when we looked first, and is not any more
}
