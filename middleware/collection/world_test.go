package collection_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/cache/memory"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/collection"
	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/middleware/paths"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

// A world is a storage, a clock, and processes on the storage.
type world struct {
	files *agingFiles
	mu    sync.Mutex
	at    time.Time
	all   []*process
}

func newWorld() *world {
	return &world{
		files: &agingFiles{StorageDriver: inmemory.New(), old: make(map[string]bool)},
		at:    time.Now(),
	}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(time.Microsecond) // nothing takes no time
	return w.at
}

// pass has time go by, during which all processes watch, if they do.
func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for ; d > 0; d -= 10 * time.Second {
		w.mu.Lock()
		w.at = w.at.Add(min(d, 10*time.Second))
		w.mu.Unlock()
		for _, p := range w.all {
			if p.watches {
				ctx := context.WithValue(context.Background(), watching{}, true)
				if err := p.gate.WatchNow(ctx); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// A process is a registry.
type process struct {
	w         *world
	t         *testing.T
	calls     *steps
	gate      *collection.Gate
	registry  distribution.Namespace
	store     *imagestore.Store
	collector *collection.Collector
	watches   bool // and has candidates spared also by who reads
}

func (w *world) process(t *testing.T, watches bool) *process {
	t.Helper()
	p := &process{w: w, t: t, calls: &steps{StorageDriver: w.files}, watches: watches}
	p.gate = collection.NewGate(p.calls)
	p.gate.SetClock(w.now)
	var statters collection.Statters
	statters.Add(p.gate)
	var err error
	p.registry, err = storage.NewRegistry(
		t.Context(), p.gate, storage.BlobDescriptorServiceFactory(&statters), storage.EnableDelete,
		storage.BlobDescriptorCacheProvider(memory.NewInMemoryBlobDescriptorCacheProvider(1000)),
	)
	if err != nil {
		t.Fatal(err)
	}
	p.store = imagestore.New(p.gate, p.registry, imagestore.Options{})
	p.collector = collection.New(p.gate, p.registry, p.store.Made)
	p.collector.SetWait(func(_ context.Context, d time.Duration) error {
		w.pass(t, d)
		return nil
	})
	if err := p.gate.WatchNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.all = append(w.all, p)
	return p
}

func (p *process) repo(name string) distribution.Repository {
	named, err := reference.WithName(name)
	if err != nil {
		p.t.Fatal(err)
	}
	repo, err := p.registry.Repository(context.Background(), named)
	if err != nil {
		p.t.Fatal(err)
	}
	return repo
}

// startedAt is a context as upstream makes it of a request.
type startedAt struct {
	context.Context
	at time.Time
}

func (c startedAt) Value(key any) any {
	if key == "http.request.startedat" {
		return c.at
	}
	return c.Context.Value(key)
}

// request is the context of a request that begins now.
func (p *process) request() context.Context {
	return startedAt{context.Background(), p.w.now()}
}

// imageOf makes an image of layers.
func imageOf(note string, layers ...string) image.Image {
	config := fmt.Appendf(nil, `{"note":%q,"os":"linux","architecture":"amd64"}`, note)
	var all []string
	for _, layer := range layers {
		all = append(all, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`,
			v1.MediaTypeImageLayerGzip, digest.FromString(layer), len(layer)))
	}
	m := image.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config}
	m.Payload = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,`+
		`"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[%s]}`,
		m.MediaType, v1.MediaTypeImageConfig, digest.FromBytes(config), len(config), strings.Join(all, ","))
	m.Digest = digest.FromBytes(m.Payload)
	return image.Image{Manifest: m, Source: "the set", Revision: "r1", NixVersion: "2.0"}
}

// indexOf makes an index of manifests.
func indexOf(children ...image.Manifest) image.Manifest {
	var all []string
	for i, child := range children {
		all = append(all, fmt.Sprintf(
			`{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"a%d"}}`,
			child.MediaType, child.Digest, len(child.Payload), i))
	}
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`,
		v1.MediaTypeImageIndex, strings.Join(all, ","))
	return image.Manifest{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(index), Payload: index}
}

// build does as the middleware does: it mounts the layers that the registry has, uploads the others,
// and commits.
func (p *process) build(repo, tag string, img image.Image, layers ...string) error {
	ctx, err := p.gate.Begin(context.Background())
	if err != nil {
		return err
	}
	into := p.store.Writer(p.repo(repo))
	defer p.store.Close(context.Background()) // when the links are written
	defer into.Close()
	for _, layer := range layers {
		there, err := into.Mount(ctx, digest.FromString(layer))
		if err != nil {
			return err
		}
		if there {
			continue
		}
		err = into.Upload(ctx, func(w io.Writer) (digest.Digest, error) {
			_, err := io.WriteString(w, layer)
			return digest.FromString(layer), err
		}, func(_ context.Context, err error) error { return err })
		if err != nil {
			return err
		}
	}
	if err := p.store.Commit(ctx, into, img, []imagestore.Tag{{Name: tag}}); err != nil {
		return err
	}
	for _, layer := range layers { // a client asks for them, so that pending links do not wait
		_, _ = p.store.Blobs(ctx, p.repo(repo)).Stat(ctx, digest.FromString(layer))
	}
	return nil
}

// upload pushes a blob as clients do.
func (p *process) upload(repo, content string) error {
	blobs := p.repo(repo).Blobs(p.request())
	begun, err := blobs.Create(p.request())
	if err != nil {
		return err
	}
	if _, err := begun.ReadFrom(strings.NewReader(content)); err != nil {
		return err
	}
	_, err = begun.Commit(p.request(), v1.Descriptor{Digest: digest.FromString(content)})
	return err
}

// put pushes a manifest, with a tag unless that is empty.
func (p *process) put(repo, tag string, m image.Manifest) error {
	ctx := p.request()
	manifests, err := p.repo(repo).Manifests(ctx)
	if err != nil {
		return err
	}
	parsed, desc, err := distribution.UnmarshalManifest(m.MediaType, m.Payload)
	if err != nil {
		return err
	}
	if _, err := manifests.Put(ctx, parsed, distribution.WithTag(tag)); err != nil || tag == "" {
		return err
	}
	return p.repo(repo).Tags(ctx).Tag(ctx, tag, desc)
}

// push pushes an image, and skips the blobs that the repository has.
func (p *process) push(repo, tag string, img image.Image, layers ...string) error {
	for _, blob := range append(layers, string(img.Manifest.Config)) {
		_, err := p.repo(repo).Blobs(p.request()).Stat(p.request(), digest.FromString(blob))
		if err == nil {
			continue
		}
		if !errors.Is(err, distribution.ErrBlobUnknown) {
			return err
		}
		if err := p.upload(repo, blob); err != nil {
			return err
		}
	}
	return p.put(repo, tag, img.Manifest)
}

// linked tells whether a link and its blob are there, or the link is pending.
func (w *world) linked(link string, dgst digest.Digest) error {
	_, err := w.content(link, dgst)
	return err
}

func (w *world) content(link string, dgst digest.Digest) ([]byte, error) {
	ctx := context.Background()
	if _, err := w.files.GetContent(ctx, paths.Link(link)); err != nil && !w.pending(dgst) {
		return nil, fmt.Errorf("%s is not linked: %w", dgst, err)
	}
	content, err := w.files.GetContent(ctx, paths.BlobData(dgst))
	if err == nil && digest.FromBytes(content) != dgst {
		err = fmt.Errorf("%s has another content", dgst)
	}
	return content, err
}

// whole tells what is missing of a manifest, as the storage has it.
func (w *world) whole(repo string, manifest digest.Digest) error {
	content, err := w.content(paths.Revision(repo, manifest), manifest)
	if err != nil {
		return err
	}
	parsed, _, err := distribution.UnmarshalManifest(mediaTypeOf(content), content)
	if err != nil {
		return err
	}
	for _, part := range parsed.References() {
		if part.Platform != nil {
			err = w.whole(repo, part.Digest)
		} else {
			err = w.linked(paths.Layer(repo, part.Digest), part.Digest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pending tells whether a record says that a blob is to be linked.
func (w *world) pending(dgst digest.Digest) bool {
	records, _ := w.files.List(context.Background(), paths.State+"links")
	for _, record := range records {
		content, _ := w.files.GetContent(context.Background(), record)
		if strings.Contains(string(content), dgst.String()) {
			return true
		}
	}
	return false
}

func mediaTypeOf(content []byte) string {
	if strings.Contains(string(content), `"manifests"`) {
		return v1.MediaTypeImageIndex
	}
	return v1.MediaTypeImageManifest
}

// check tells of each tag in the storage whether it leads to a whole image, and of each link whether
// it leads to something. Late says that a link may lead to nothing: it was written by what stood
// still for minutes, and was told that it failed.
func (w *world) check(late bool) error {
	ctx := context.Background()
	var all []error
	err := w.files.Walk(ctx, paths.Repositories, func(info driver.FileInfo) error {
		repo, rest, _ := strings.Cut(strings.TrimPrefix(info.Path(), paths.Repositories+"/"), "/_")
		if info.IsDir() || path.Base(rest) != "link" {
			return nil
		}
		content, err := w.files.GetContent(ctx, info.Path())
		if err != nil {
			return err
		}
		if kind, _ := paths.Parse(info.Path()); kind == paths.TagLink {
			err = w.whole(repo, digest.Digest(content))
		} else if kind != paths.TagEntry && !late {
			_, err = w.files.Stat(ctx, paths.BlobData(digest.Digest(content)))
		}
		if err != nil {
			all = append(all, fmt.Errorf("%s: %w", info.Path(), err))
		}
		return nil
	})
	return errors.Join(append(all, err)...)
}

// untag deletes a tag as an operator does.
func (p *process) untag(repo, tag string) {
	if err := p.repo(repo).Tags(p.request()).Untag(p.request(), tag); err != nil {
		p.t.Fatal(err)
	}
}

func (w *world) has(dgst digest.Digest) bool {
	_, err := w.files.Stat(context.Background(), paths.BlobData(dgst))
	return err == nil
}
