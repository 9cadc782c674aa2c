package nixbuilder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
)

// blobs is a registry's: repositories made from it see what others uploaded only once they mount
// it.
type blobs struct {
	storing sync.WaitGroup // uploads that have returned
	mu      sync.Mutex
	stored  map[digest.Digest][]byte
}

type repository struct {
	*blobs
	mounts, uploads atomic.Int32
}

func (r *repository) Mount(_ context.Context, d digest.Digest) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.stored[d]
	if ok {
		r.mounts.Add(1)
	}
	return ok, nil
}

func (r *repository) Go(ctx context.Context, do func(context.Context) error) {
	r.storing.Go(func() { _ = do(context.WithoutCancel(ctx)) })
}

// Upload stores when it has returned.
func (r *repository) Upload(
	ctx context.Context, write func(io.Writer) (digest.Digest, error),
	done func(context.Context, error) error,
) error {
	var b bytes.Buffer
	d, err := write(&b)
	if err == nil && d != digest.FromBytes(b.Bytes()) {
		err = errors.New("wrong digest")
	}
	if err != nil {
		return done(ctx, err)
	}
	r.uploads.Add(1)
	r.storing.Go(func() {
		runtime.Gosched()
		r.mu.Lock()
		r.stored[d] = b.Bytes()
		r.mu.Unlock()
		_ = done(context.WithoutCancel(ctx), nil)
	})
	return nil
}

func (r *repository) Put(_ context.Context, _ string, content []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stored[digest.FromBytes(content)] = content
	return nil
}

// packs counts how often it packs a layer.
type packs struct {
	count atomic.Int32
	fail  atomic.Bool
}

func (p *packs) pack(w io.Writer) (layer.Result, error) {
	p.count.Add(1)
	content := []byte("a layer")
	if _, err := w.Write(content); err != nil {
		return layer.Result{}, err
	}
	if p.fail.Load() {
		return layer.Result{}, errors.New("cannot read")
	}
	return layer.Result{
		Digest: digest.FromBytes(content),
		Size:   int64(len(content)),
		DiffID: digest.FromString("unpacked"),
	}, nil
}

func TestLayersArePackedOnce(t *testing.T) {
	registry := &blobs{stored: make(map[digest.Digest][]byte)}
	p := newPacker(recordstest.NewMemory(), compress.None)
	var work packs
	var wg sync.WaitGroup
	var mounts, uploads atomic.Int32
	for range 100 {
		wg.Go(func() {
			repo := &repository{blobs: registry}
			blob, err := p.layer(t.Context(), records.Key("a"), repo, work.pack)
			if err != nil || blob.Digest != digest.FromString("a layer") || blob.Size != 7 ||
				blob.DiffID != digest.FromString("unpacked") {
				t.Errorf("layer = %+v, %v", blob, err)
			}
			if repo.mounts.Load()+repo.uploads.Load() != 1 {
				t.Errorf(
					"%d mounts and %d uploads into a repository, want one of them", repo.mounts.Load(),
					repo.uploads.Load(),
				)
			}
			mounts.Add(repo.mounts.Load())
			uploads.Add(repo.uploads.Load())
		})
	}
	wg.Wait()
	registry.storing.Wait()
	if work.count.Load() != 1 || uploads.Load() != 1 || mounts.Load() != 99 {
		t.Errorf("%d packs, %d uploads, %d mounts, want 1, 1, 99", work.count.Load(), uploads.Load(), mounts.Load())
	}
}

func TestLayerRecordsAreHints(t *testing.T) {
	registry := &blobs{stored: make(map[digest.Digest][]byte)}
	state := recordstest.NewMemory()
	repo := &repository{blobs: registry}
	var work packs
	ask := func(p *packer) {
		t.Helper()
		if _, err := p.layer(t.Context(), records.Key("a"), repo, work.pack); err != nil {
			t.Fatal(err)
		}
		registry.storing.Wait()
	}
	ask(newPacker(state, compress.None))
	ask(newPacker(state, compress.None))
	if n := work.count.Load(); n != 1 {
		t.Errorf("%d packs for two replicas, want 1", n)
	}
	clear(registry.stored) // garbage collection
	ask(newPacker(state, compress.None))
	if n := work.count.Load(); n != 2 || len(registry.stored) != 1 {
		t.Errorf("%d packs after the blob was collected, want 2", n)
	}
	clear(state.Records)
	ask(newPacker(state, compress.None))
	if n := work.count.Load(); n != 3 {
		t.Errorf("%d packs after the records were lost, want 3", n)
	}
}

func TestFailedPacksLeaveNothing(t *testing.T) {
	registry := &blobs{stored: make(map[digest.Digest][]byte)}
	state := recordstest.NewMemory()
	p := newPacker(state, compress.None)
	var work packs
	work.fail.Store(true)
	repo := &repository{blobs: registry}
	if _, err := p.layer(t.Context(), records.Key("a"), repo, work.pack); err == nil {
		t.Fatal("no error")
	}
	if len(state.Records)+len(registry.stored) != 0 {
		t.Errorf("left behind: %v %v", state.Records, registry.stored)
	}
	work.fail.Store(false)
	if _, err := p.layer(t.Context(), records.Key("a"), repo, work.pack); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	registry.storing.Wait()
}

func TestWaitingForALayerEndsWithTheContext(t *testing.T) {
	registry := &blobs{stored: make(map[digest.Digest][]byte)}
	p := newPacker(recordstest.NewMemory(), compress.None)
	packing, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		repo := &repository{blobs: registry}
		_, _ = p.layer(t.Context(), records.Key("a"), repo, func(io.Writer) (layer.Result, error) {
			close(packing)
			<-release
			return layer.Result{}, errors.New("enough")
		})
	})
	<-packing
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var work packs
	_, err := p.layer(ctx, records.Key("a"), &repository{blobs: registry}, work.pack)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	close(release)
	wg.Wait()
}
