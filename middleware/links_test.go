package middleware

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

// Layers are served from when they are owed, to the repository that they are owed to and to no
// other, and are linked in the end, whatever happens in between.
func TestLinks(t *testing.T) {
	for _, test := range []struct {
		name string
		// between happens when the links are owed. It returns who goes on.
		between func(*testing.T, *linking) *links
	}{
		{"paid", func(t *testing.T, l *linking) *links {
			l.debt.pay(t.Context())
			return l.links
		}},
		{"paid after the client has left", func(t *testing.T, l *linking) *links {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			l.debt.pay(ctx)
			return l.links
		}},
		{"asked for", func(t *testing.T, l *linking) *links {
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			l.debt.pay(t.Context())
			return l.links
		}},
		{"asked of another replica", func(t *testing.T, l *linking) *links {
			mine := l.links
			l.links = newLinks(state{l.files}, l.registry)
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			l.debt.pay(t.Context())
			return mine
		}},
		{"paid while it is asked for", func(t *testing.T, l *linking) *links {
			l.files.beforeList = func() {
				l.files.beforeList = nil
				l.debt.pay(t.Context())
				l.links.close()
			}
			l.check(t, "image", l.layers[3].Digest, true)
			return l.links
		}},
		{"killed before", func(t *testing.T, l *linking) *links {
			next := newLinks(state{l.files}, l.registry)
			next.resume(t.Context())
			return next
		}},
		{"killed between", func(t *testing.T, l *linking) *links {
			if err := link(t.Context(), l.debt.repo, l.layers[1]); err != nil {
				t.Fatal(err)
			}
			next := newLinks(state{l.files}, l.registry)
			next.resume(t.Context())
			return next
		}},
		{"the storage fails for a while", func(t *testing.T, l *linking) *links {
			l.files.broken = "/_layers/"
			l.debt.pay(t.Context())
			l.links.close()
			if len(l.owed(t)) != 1 {
				t.Errorf("owed are %q, want one", l.owed(t))
			}
			l.files.broken = ""
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			next := newLinks(state{l.files}, l.registry)
			next.resume(t.Context())
			return next
		}},
		{"beside damaged records", func(t *testing.T, l *linking) *links {
			for i, damaged := range []string{"", "{", "[]", "null", `{"repository":"../../x"}`, `{"repository":"image","layers":[{"digest":"../../x"}]}`} {
				if err := l.links.records.Put(
					t.Context(), linksKind+"/"+owedTo("image")+string(rune('a'+i)), []byte(damaged),
				); err != nil {
					t.Fatal(err)
				}
			}
			for _, layer := range l.layers {
				l.check(t, "image", layer.Digest, true)
			}
			l.check(t, "image", digest.FromString("unknown"), false)
			next := newLinks(state{l.files}, l.registry)
			next.resume(t.Context())
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
			test.between(t, l).close()
			for _, layer := range l.layers {
				if !l.linked(t, "image", layer.Digest) {
					t.Errorf("%s is not linked in the end", layer.Digest)
				}
			}
			if owed := l.owed(t); len(owed) > 0 {
				t.Errorf("still owed are %q", owed)
			}
			if l.linked(t, "image", l.secret.Digest) || l.linked(t, "another", l.layers[0].Digest) {
				t.Error("what is not owed was linked")
			}
		})
	}
}

// An image that can't be recorded takes no room from others, and one that is owed nothing is not
// recorded.
func TestLinksNotOwed(t *testing.T) {
	l := newLinking(t)
	l.debt.pay(t.Context())
	l.links.close()
	l.files.broken = "/nix/"
	for range 2 * imagesLinked {
		if _, err := l.links.owe(t.Context(), l.debt.repo, l.layers); !errors.Is(err, errBroken) {
			t.Fatalf("the error is %v", err)
		}
	}
	for range 2 * imagesLinked {
		debt, err := l.links.owe(t.Context(), l.debt.repo, nil)
		if err != nil {
			t.Fatal(err)
		}
		debt.pay(t.Context())
	}
}

// Images whose links are not written yet hold others up when they are many, unless those are given
// up.
func TestLinksWait(t *testing.T) {
	l := newLinking(t)
	debts := []debt{l.debt}
	for len(debts) < imagesLinked {
		debt, err := l.links.owe(t.Context(), l.debt.repo, l.layers)
		if err != nil {
			t.Fatal(err)
		}
		debts = append(debts, debt)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.links.owe(ctx, l.debt.repo, l.layers); !errors.Is(err, context.Canceled) {
		t.Errorf("one too many: %v", err)
	}
	debts[3].pay(t.Context())
	debt, err := l.links.owe(t.Context(), l.debt.repo, l.layers)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(debts[:3], append(debts[4:], debt)...) {
		d.pay(t.Context())
	}
	l.links.close()
	if owed := l.owed(t); len(owed) > 0 {
		t.Errorf("still owed are %q", owed)
	}
}

// linking is a registry where layers are owed to the repository image.
type linking struct {
	files    *brokenDriver
	registry distribution.Namespace
	links    *links
	layers   []v1.Descriptor
	secret   v1.Descriptor // a blob that is owed to nobody
	debt     debt
}

func newLinking(t *testing.T) *linking {
	t.Helper()
	files := &brokenDriver{StorageDriver: inmemory.New()}
	registry, err := storage.NewRegistry(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	l := &linking{files: files, registry: registry, links: newLinks(state{files}, registry)}
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
	if l.debt, err = l.links.owe(t.Context(), l.repo(t, "image"), l.layers); err != nil {
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
	blobs := linkedBlobs{BlobStore: repo.Blobs(t.Context()), repo: repo, links: l.links}
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

func (l *linking) owed(t *testing.T) []string {
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
