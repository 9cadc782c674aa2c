package middleware

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	registrymiddleware "github.com/distribution/distribution/v3/registry/middleware/registry"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/internal/faulty"
	"github.com/nixery-registry/nixery-registry/middleware/blobserver"
	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// sweptStorage is the name of a storage that is a faulty.Driver.
const sweptStorage = "swept"

// registerSwept makes known to upstream what startSwept names in its configuration.
var registerSwept = sync.OnceFunc(func() {
	faulty.Register(sweptStorage)
	wrap := func(
		_ context.Context, registry distribution.Namespace, storage driver.StorageDriver, _ map[string]any,
	) (distribution.Namespace, error) {
		return blobserver.Wrap(registry, storage, true), nil
	}
	if err := registrymiddleware.Register(sweptStorage, wrap); err != nil {
		panic(err)
	}
})

// A swept is one process of a registry: upstream's application and a Service over a layeredBuilder.
type swept struct {
	*Service
	files   *faulty.Driver
	builder *layeredBuilder
	app     http.Handler
}

// startSwept starts a registry on a storage, which other processes may have had before.
func startSwept(t *testing.T, files *faulty.Driver, revision string) *swept {
	t.Helper()
	registerSwept()
	options := defaults()
	service := &Service{
		config: new(configuration.Configuration), options: options, form: options.form(), tags: options.tags(),
	}
	namespace, err := storage.NewRegistry(t.Context(), files, storage.EnableDelete)
	if err != nil {
		t.Fatal(err)
	}
	if err := service.open(namespace, files); err != nil {
		t.Fatal(err)
	}
	builder := newLayeredBuilder(service.store.State(), revision)
	service.builder = builder
	service.store.Recover(t.Context())
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			sweptStorage:  {"driver": files},
			"delete":      {"enabled": true},
			"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
		},
		Middleware: map[string][]configuration.Middleware{
			"registry":   {{Name: sweptStorage}},
			"repository": {{Name: name, Options: configuration.Parameters{serviceKey: service}}},
		},
	}
	config.HTTP.Secret = "of all processes"
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return &swept{Service: service, files: files, builder: builder, app: Blobs(config, handlers.NewApp(ctx, config))}
}

// settle waits until the links of images that were served are written.
func (s *swept) settle(ctx context.Context) { s.store.Close(ctx) }

// do makes a request. The media type is what is accepted, or what the body is. Heard is false if the
// process ended before it could answer.
func (s *swept) do(
	ctx context.Context, method, url, mediaType string, body []byte,
) (answer *httptest.ResponseRecorder, heard bool) {
	request := httptest.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if body == nil {
		request.Header.Set("Accept", mediaType)
	} else {
		request.Header.Set("Content-Type", mediaType)
	}
	answer = httptest.NewRecorder()
	s.app.ServeHTTP(answer, request)
	return answer, !s.files.Ended()
}

// A layeredBuilder makes images as nixbuilder does: a layer that there is a record of is mounted, and
// another one is uploaded and then recorded. It is safe for concurrent use.
type layeredBuilder struct {
	*fakeBuilder
	layers *records.Table[image.Blob]
}

func newLayeredBuilder(state records.State, revision string) *layeredBuilder {
	return &layeredBuilder{
		&fakeBuilder{revision: revision, origin: "configured", current: true},
		records.NewTable[image.Blob](state, "layers", 1<<20),
	}
}

// Current knows the present revision and those that are tags.
func (b *layeredBuilder) Current(tag string) (string, bool) {
	if tag == source.Latest {
		return b.revision, true
	}
	return tag, true
}

// Pin knows the same.
func (b *layeredBuilder) Pin(_ context.Context, tag string) (source.Pinned, error) {
	revision, _ := b.Current(tag)
	return source.Pinned{Name: "the set", Revision: revision, Origin: "configured"}, nil
}

// Build makes the image of sweptImage.
func (b *layeredBuilder) Build(
	ctx context.Context, request names.Request, pinned source.Pinned, _ limit.Asker, into nixbuilder.Repository,
) (image.Image, error) {
	b.mu.Lock()
	b.built = append(b.built, request.String()+":"+pinned.Revision)
	b.mu.Unlock()
	all, allCtx := errgroup.WithContext(ctx)
	for _, layer := range sweptLayers(request.String(), pinned.Revision) {
		all.Go(func() error { return b.layer(allCtx, layer, into) })
	}
	if err := all.Wait(); err != nil {
		return image.Image{}, err
	}
	return sweptImage(request.String(), pinned.Revision), nil
}

func (b *layeredBuilder) layer(ctx context.Context, layer []byte, into nixbuilder.Repository) error {
	blob := sweptBlob(layer)
	key := sweptKey(layer)
	recorded, ok, err := b.layers.Get(ctx, key)
	if err != nil {
		return err
	}
	if ok {
		if mounted, err := into.Mount(ctx, recorded.Digest); mounted || err != nil {
			return err
		}
	}
	return into.Upload(ctx, func(w io.Writer) (digest.Digest, error) {
		_, err := w.Write(layer)
		return blob.Digest, err
	}, func(ctx context.Context, err error) error {
		if err != nil {
			return err
		}
		return b.layers.Put(ctx, key, blob)
	})
}

// sharedLayer is too large to be stored in one piece.
var sharedLayer = bytes.Repeat([]byte("what all images have "), 60_000)

// sweptLayers are the layers of an image: one that all images have, and one of each package at the revision.
func sweptLayers(image, revision string) (layers [][]byte) {
	layers = append(layers, sharedLayer)
	for _, pkg := range strings.Split(image, "/") {
		layers = append(layers, fmt.Appendf(nil, "%s at %s", pkg, revision))
	}
	return layers
}

func sweptBlob(layer []byte) image.Blob {
	dgst := digest.FromBytes(layer)
	return image.Blob{Digest: dgst, Size: int64(len(layer)), DiffID: dgst}
}

// sweptKey is the key of a layer's record.
func sweptKey(layer []byte) string { return fmt.Sprintf("%x", sha256.Sum256(layer)) }

// sweptImage is what is built of an image at a revision.
func sweptImage(name, revision string) image.Image {
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}
	config.RootFS.Type = "layers"
	manifest := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	for _, layer := range sweptLayers(name, revision) {
		blob := sweptBlob(layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, blob.DiffID)
		manifest.Layers = append(manifest.Layers, v1.Descriptor{
			MediaType: v1.MediaTypeImageLayer, Digest: blob.Digest, Size: blob.Size,
		})
	}
	built := image.Image{Source: "the set", Revision: revision, NixVersion: "2.0"}
	built.Manifest.Config = mustJSON(config)
	manifest.Config = v1.Descriptor{
		MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(built.Manifest.Config),
		Size: int64(len(built.Manifest.Config)),
	}
	built.Manifest.MediaType = manifest.MediaType
	built.Manifest.Payload = mustJSON(manifest)
	built.Manifest.Digest = digest.FromBytes(built.Manifest.Payload)
	return built
}

func mustJSON(value any) []byte {
	content, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return content
}
