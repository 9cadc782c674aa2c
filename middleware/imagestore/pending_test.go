package imagestore

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layers are served as soon as their links are pending, from the repository that needs them and
// from no other. In the end they are linked, whatever happens in between.
func TestPendingLinks(t *testing.T) {
	for _, test := range []struct {
		name string
		// between happens when the links are pending. It returns the log that goes on.
		between func(*testing.T, *linking) *pendingLinks
	}{
		{"written", func(t *testing.T, l *linking) *pendingLinks {
			l.entry.write(t.Context())
			return l.pending
		}},
		{"written after the client has left", func(t *testing.T, l *linking) *pendingLinks {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			l.entry.write(ctx)
			return l.pending
		}},
		{"asked for", func(t *testing.T, l *linking) *pendingLinks {
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			l.entry.write(t.Context())
			return l.pending
		}},
		{"asked of another replica", func(t *testing.T, l *linking) *pendingLinks {
			mine := l.pending
			l.pending = newPendingLinks(state{l.files}, l.registry)
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			l.entry.write(t.Context())
			return mine
		}},
		{"written while one is asked for", func(t *testing.T, l *linking) *pendingLinks {
			l.files.beforeList = func() {
				l.files.beforeList = nil
				l.entry.write(t.Context())
				l.pending.close(t.Context())
			}
			l.check(t, "image", l.layers[3].Digest, true)
			return l.pending
		}},
		{"killed before", func(t *testing.T, l *linking) *pendingLinks {
			next := newPendingLinks(state{l.files}, l.registry)
			next.recover(t.Context())
			return next
		}},
		{"killed between", func(t *testing.T, l *linking) *pendingLinks {
			if err := Link(t.Context(), l.entry.repo, l.layers[1]); err != nil {
				t.Fatal(err)
			}
			next := newPendingLinks(state{l.files}, l.registry)
			next.recover(t.Context())
			return next
		}},
		{"the storage fails for a while", func(t *testing.T, l *linking) *pendingLinks {
			l.files.broken = "/_layers/"
			l.entry.write(t.Context())
			l.pending.close(t.Context())
			if len(l.entries(t)) != 1 {
				t.Errorf("pending are %q, want one", l.entries(t))
			}
			l.files.broken = ""
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			next := newPendingLinks(state{l.files}, l.registry)
			next.recover(t.Context())
			return next
		}},
		{"beside damaged records", func(t *testing.T, l *linking) *pendingLinks {
			for i, damaged := range []string{
				"", "{", "[]", "null", `{"repository":"../../x"}`,
				`{"repository":"image","layers":[{"digest":"../../x"}]}`,
			} {
				if err := l.pending.state.Put(
					t.Context(), linksKind+"/"+entryPrefix("image")+string(rune('a'+i)), []byte(damaged),
				); err != nil {
					t.Fatal(err)
				}
			}
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			l.check(t, "image", digest.FromString("unknown"), false)
			next := newPendingLinks(state{l.files}, l.registry)
			next.recover(t.Context())
			return next
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLinking(t)
			for _, layer := range l.layers {
				if l.linked(t, "image", layer.Digest) {
					t.Fatalf("%s is linked before anything happens", layer.Digest)
				}
			}
			l.check(t, "image", l.secret.Digest, false)
			l.check(t, "another", l.layers[0].Digest, false)
			test.between(t, l).close(t.Context())
			for _, layer := range l.layers {
				if !l.linked(t, "image", layer.Digest) {
					t.Errorf("%s is not linked in the end", layer.Digest)
				}
			}
			if entries := l.entries(t); len(entries) > 0 {
				t.Errorf("still pending are %q", entries)
			}
			if l.linked(t, "image", l.secret.Digest) || l.linked(t, "another", l.layers[0].Digest) {
				t.Error("a layer that no image needs was linked")
			}
		})
	}
}

// An image whose links can't be recorded takes no room from others, and one without such links is
// not recorded.
func TestPendingLinksNotRecorded(t *testing.T) {
	l := newLinking(t)
	l.entry.write(t.Context())
	l.pending.close(t.Context())
	l.files.broken = "/nix/"
	for range 2 * maxPendingImages {
		if _, err := l.pending.record(t.Context(), l.entry.repo, l.layers); !errors.Is(err, errBroken) {
			t.Fatalf("the error is %v", err)
		}
	}
	for range 2 * maxPendingImages {
		one, err := l.pending.record(t.Context(), l.entry.repo, nil)
		if err != nil {
			t.Fatal(err)
		}
		one.write(t.Context())
	}
}

// Too many images with pending links make the next one wait, until it is given up.
func TestPendingLinksWait(t *testing.T) {
	l := newLinking(t)
	all := []pendingEntry{l.entry}
	for len(all) < maxPendingImages {
		one, err := l.pending.record(t.Context(), l.entry.repo, l.layers)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.pending.record(ctx, l.entry.repo, l.layers); !errors.Is(err, context.Canceled) {
		t.Errorf("one too many: %v", err)
	}
	all[3].write(t.Context())
	one, err := l.pending.record(t.Context(), l.entry.repo, l.layers)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(all[:3], append(all[4:], one)...) {
		d.write(t.Context())
	}
	l.pending.close(t.Context())
	if entries := l.entries(t); len(entries) > 0 {
		t.Errorf("still pending are %q", entries)
	}
}

// linking is a registry in which links are pending in the repository image.
type linking struct {
	files    *brokenDriver
	registry distribution.Namespace
	pending  *pendingLinks
	layers   []v1.Descriptor
	secret   v1.Descriptor // a blob that no image needs
	entry    pendingEntry
}

func newLinking(t *testing.T) *linking {
	t.Helper()
	files := &brokenDriver{StorageDriver: inmemory.New()}
	registry, err := storage.NewRegistry(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	l := &linking{files: files, registry: registry, pending: newPendingLinks(state{files}, registry)}
	put := func(content string) v1.Descriptor {
		stored, err := l.repo(t, "elsewhere").
			Blobs(t.Context()).
			Put(t.Context(), "application/octet-stream", []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		return stored
	}
	for i := range 2*linksAtOnce + 1 {
		l.layers = append(l.layers, put(strings.Repeat("layer", i+1)))
	}
	l.secret = put("secret")
	if l.entry, err = l.pending.record(t.Context(), l.repo(t, "image"), l.layers); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *linking) repo(t *testing.T, name string) distribution.Repository {
	t.Helper()
	named, err := reference.WithName(name)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := l.registry.Repository(t.Context(), named)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// linked asks the storage.
func (l *linking) linked(t *testing.T, repository string, dgst digest.Digest) bool {
	t.Helper()
	_, err := l.repo(t, repository).Blobs(t.Context()).Stat(t.Context(), dgst)
	if err != nil && !errors.Is(err, distribution.ErrBlobUnknown) {
		t.Fatal(err)
	}
	return err == nil
}

// check asks as the registry's handlers do, which compare errors by identity.
func (l *linking) check(t *testing.T, repository string, dgst digest.Digest, want bool) {
	t.Helper()
	repo := l.repo(t, repository)
	blobs := linkingBlobs{BlobStore: repo.Blobs(t.Context()), repo: repo, links: l.pending, lost: newLost()}
	desc, err := blobs.Stat(t.Context(), dgst)
	if !want {
		if err != distribution.ErrBlobUnknown { //nolint:errorlint // on purpose
			t.Errorf("%s in %s: the error is %v", dgst, repository, err)
		}
		return
	}
	if err != nil || desc.Digest != dgst {
		t.Fatalf("%s in %s is %v, %v", dgst, repository, desc, err)
	}
	answer := httptest.NewRecorder()
	if err := blobs.ServeBlob(t.Context(), answer, httptest.NewRequest(http.MethodGet, "/", nil), dgst); err != nil ||
		digest.FromBytes(answer.Body.Bytes()) != dgst {
		t.Errorf("%s in %s is served as %d bytes, %v", dgst, repository, answer.Body.Len(), err)
	}
}

func (l *linking) entries(t *testing.T) []string {
	t.Helper()
	names, err := state{l.files}.List(t.Context(), linksKind)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var errBroken = errors.New("broken")

// A brokenDriver does not write where a path contains broken, if that is not empty, and lists after
// what happens before.
type brokenDriver struct {
	driver.StorageDriver
	broken     string
	beforeList func()
}

func (d *brokenDriver) List(ctx context.Context, path string) ([]string, error) {
	if d.beforeList != nil {
		d.beforeList()
	}
	return d.StorageDriver.List(ctx, path)
}

func (d *brokenDriver) PutContent(ctx context.Context, path string, content []byte) error {
	if d.broken != "" && strings.Contains(path, d.broken) {
		return errBroken
	}
	return d.StorageDriver.PutContent(ctx, path, content)
}
