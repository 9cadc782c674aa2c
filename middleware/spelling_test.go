package middleware

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A countingDriver counts the calls that read.
type countingDriver struct {
	driver.StorageDriver
	calls atomic.Int64
}

func (d *countingDriver) GetContent(ctx context.Context, path string) ([]byte, error) {
	d.calls.Add(1)
	return d.StorageDriver.GetContent(ctx, path)
}

func (d *countingDriver) Stat(ctx context.Context, path string) (driver.FileInfo, error) {
	d.calls.Add(1)
	return d.StorageDriver.Stat(ctx, path)
}

func (d *countingDriver) List(ctx context.Context, path string) ([]string, error) {
	d.calls.Add(1)
	return d.StorageDriver.List(ctx, path)
}

// of counts the calls of some work.
func (d *countingDriver) of(work func()) int64 {
	before := d.calls.Load()
	work()
	return d.calls.Load() - before
}

// A replica is a Service over storage that others share, which has served nothing.
func replica(t *testing.T, files driver.StorageDriver) (*pulling, *countingDriver) {
	t.Helper()
	counting := &countingDriver{StorageDriver: files}
	p := newPullingOn(t, counting)
	p.builder.current = true
	return p, counting
}

// requesting is the context of a request.
func requesting(t *testing.T, method, name, reference string) context.Context {
	t.Helper()
	request := httptest.NewRequest(method, "/v2/"+name, nil)
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	return requestContext{t.Context(), map[string]any{
		"http.request": request, "http.response": http.ResponseWriter(httptest.NewRecorder()),
		"vars.name": name, "vars.reference": reference,
	}}
}

// opened is a repository as upstream has it in a request.
func (p *pulling) opened(t *testing.T, ctx context.Context, name string) *repository { //nolint:revive // t goes first
	t.Helper()
	repo, err := p.readable(ctx, p.repository(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return &repository{Repository: repo, service: p.Service}
}

// manifest asks for one as upstream does, by tag or digest.
func (p *pulling) manifest(t *testing.T, name, reference string) (digest.Digest, error) {
	t.Helper()
	ctx := requesting(t, http.MethodGet, name, reference)
	repo := p.opened(t, ctx, name)
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return "", err
	}
	dgst, err := digest.Parse(reference)
	if err != nil {
		desc, err := repo.Tags(ctx).Get(ctx, reference)
		if err != nil {
			return "", err
		}
		dgst = desc.Digest
	}
	manifest, err := manifests.Get(ctx, dgst)
	if err != nil {
		return "", err
	}
	_, payload, err := manifest.Payload()
	return digest.FromBytes(payload), err
}

// blob asks for one as upstream does.
func (p *pulling) blob(t *testing.T, name string, dgst digest.Digest) error {
	t.Helper()
	ctx := requesting(t, http.MethodGet, name, "")
	_, err := p.opened(t, ctx, name).Blobs(ctx).Stat(ctx, dgst)
	return err
}

// builtConfig is that of the images that are built of the revision r1.
func builtConfig() digest.Digest { return digest.FromBytes(manifestOf("r1 without []").Config) }

// TestCallsOfSpellings counts what requests cost the storage. By the canonical name, that is what it
// was before there were spellings. What nobody has costs no more by other spellings.
func TestCallsOfSpellings(t *testing.T) {
	files := inmemory.New()
	builds, _ := replica(t, files)
	manifest, err := builds.manifest(t, "b/a", "latest")
	if err != nil {
		t.Fatal(err)
	}
	pushed, nothing := manifestOf("pushed"), digest.FromString("nothing")
	for _, name := range []string{"a/b", "own/image"} {
		builds.pushTo(t, builds.repository(t, name), "pushed", pushed)
	}
	aManifest := func(reference string) func(*pulling, string) error {
		return func(p *pulling, name string) error {
			_, err := p.manifest(t, name, reference)
			return err
		}
	}
	aBlob := func(dgst digest.Digest) func(*pulling, string) error {
		return func(p *pulling, name string) error { return p.blob(t, name, dgst) }
	}
	for _, test := range []struct {
		what, name string
		ask        func(*pulling, string) error
		found      bool
		// Calls of a replica that has served nothing, at most, and when the same is asked again.
		cold, warm int64
	}{
		{"a tag", "a/b", aManifest("latest"), true, 4, 3},
		{"a tag", "b/a", aManifest("latest"), true, 5, 4},
		{"a manifest", "a/b", aManifest(manifest.String()), true, 2, 2},
		{"a manifest", "b/a", aManifest(manifest.String()), true, 6, 2},
		{"a blob", "a/b", aBlob(builtConfig()), true, 2, 2},
		{"a blob", "b/a", aBlob(builtConfig()), true, 13, 2},
		{"a tag that was pushed to it", "own/image", aManifest("pushed"), true, 4, 4},
		{"a manifest that was pushed to it", "own/image", aManifest(pushed.Digest.String()), true, 3, 2},
		{"a manifest of nothing", "a/b", aManifest(nothing.String()), false, 4, 4},
		{"a manifest of nothing", "b/a", aManifest(nothing.String()), false, 4, 4},
		{"a blob of nothing", "a/b", aBlob(nothing), false, 3, 3},
		{"a blob of nothing", "b/a", aBlob(nothing), false, 2, 2},
		{"a manifest of others", "d/c", aManifest(manifest.String()), false, 6, 6},
		{"a blob of others", "d/c", aBlob(builtConfig()), false, 5, 5},
		// The tags are looked through once.
		{"a manifest that was pushed to the canonical one", "b/a", aManifest(pushed.Digest.String()), false, 20, 10},
		{"a blob that was pushed to the canonical one", "b/a", aBlob(digest.FromBytes(pushed.Config)), false, 2, 2},
	} {
		p, counting := replica(t, files)
		cold := counting.of(func() { err = test.ask(p, test.name) })
		warm := counting.of(func() { err = errors.Join(err, test.ask(p, test.name)) })
		if (err == nil) != test.found || cold > test.cold || warm != test.warm {
			t.Errorf(
				"%s takes %d calls by %s, and then %d, want %d and %d; %v", test.what, cold, test.name, warm,
				test.cold, test.warm, err,
			)
		}
	}
}

// TestSpellingsOfPushed pulls by another spelling what was pushed to the canonical name. The image of
// the revision is in its place.
func TestSpellingsOfPushed(t *testing.T) {
	for _, test := range []struct {
		name, tag  string
		pushed     []string // tags of the canonical repository
		builtFirst bool
		user       client
		want       string // an error; empty: the built image
	}{
		{name: "a moving tag", tag: "latest", pushed: []string{"latest"}},
		{name: "after it was built", tag: "latest", pushed: []string{"latest"}, builtFirst: true},
		{name: "the tag of the revision, too", tag: "latest", pushed: []string{"latest", "r1"}, want: errNotBuilt.Error()},
		{name: "the tag of the revision alone", tag: "latest", pushed: []string{"r1"}},
		{name: "by that", tag: "r1", pushed: []string{"r1"}, want: errNotBuilt.Error()},
		{
			name: "for who may have nothing built", tag: "latest", pushed: []string{"latest"},
			user: client{name: "x", barred: errNoBuilds}, want: errNoBuilds.Error(),
		},
		{
			name: "for who may have nothing built, and it is there", tag: "latest", pushed: []string{"latest"},
			builtFirst: true, user: client{name: "x", barred: errNoBuilds},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, _ := replica(t, inmemory.New())
			canonical := p.repository(t, "a/b")
			if test.builtFirst {
				if _, err := p.manifest(t, "b/a", "latest"); err != nil {
					t.Fatal(err)
				}
			}
			for _, tag := range test.pushed {
				p.pushTo(t, canonical, tag, manifestOf("pushed"))
			}
			if test.user.name == "" {
				test.user.name = "192.0.2.1"
			}
			ctx := requesting(t, http.MethodGet, "b/a", test.tag)
			at, err := p.home(ctx, p.opened(t, ctx, "b/a").Repository)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.pullAt(ctx, at, test.tag, test.user)
			switch {
			case test.want == "" && (err != nil || got.Pushed || got.Revision != "r1"):
				t.Errorf("it is %+v, %v", got, err)
			case test.want == "" && (got.repository != "a/b" || slices.Contains(test.pushed, got.tag)):
				t.Errorf("it is said to be in %s:%s", got.repository, got.tag)
			case test.want != "" && (err == nil || err.Error() != test.want):
				t.Errorf("it is %+v, %v; want %s", got, err, test.want)
			}
		})
	}
}

// TestSignaturesOfSpellings: whoever looks for a signature by another spelling finds what was pushed
// to that one.
func TestSignaturesOfSpellings(t *testing.T) {
	p, _ := replica(t, inmemory.New())
	tag := "sha256-" + digest.FromString("image").Encoded() + ".sig"
	p.pushTo(t, p.repository(t, "a/b"), tag, manifestOf("of the canonical one"))
	if _, err := p.manifest(t, "b/a", tag); !errors.As(err, new(distribution.ErrTagUnknown)) {
		t.Errorf("there is one: %v", err)
	}
	signature := p.pushTo(t, p.repository(t, "b/a"), tag, manifestOf("own"))
	if got, err := p.manifest(t, "b/a", tag); err != nil || got != signature {
		t.Errorf("it is %s, %v; want %s", got, err, signature)
	}
	p.asked(t, 0, 0)
}

// TestTagsOfSpellings lists what was pushed to a spelling and what was built for the canonical name.
func TestTagsOfSpellings(t *testing.T) {
	p, _ := replica(t, inmemory.New())
	p.builder.offers = []string{"main"}
	want := func(name string, want ...string) {
		t.Helper()
		ctx := requesting(t, http.MethodGet, name, "")
		if tags, err := p.opened(t, ctx, name).Tags(ctx).List(ctx, -1, ""); !errors.Is(err, io.EOF) ||
			!slices.Equal(tags, want) {
			t.Errorf("the tags of %s are %q, %v; want %q", name, tags, err, want)
		}
	}
	p.pushTo(t, p.repository(t, "a/b"), "secret", manifestOf("pushed"))
	want("b/a", "latest", "main")
	if _, err := p.manifest(t, "b/a", "latest"); err != nil {
		t.Fatal(err)
	}
	want("b/a", "latest", "main", "r1")
	p.pushTo(t, p.repository(t, "b/a"), "own", manifestOf("own"))
	want("b/a", "latest", "main", "own", "r1")
	want("a/b", "latest", "main", "r1", "secret")
	p.readOnly = true
	want("b/a", "latest", "own", "r1")
	p.readOnly = false
	p.pushTo(t, p.repository(t, "team/app"), "v1", manifestOf("app"))
	want("team/app", "v1") // as any repository that was pushed
}

// TestNamesOfSpellings: below another prefix and for names of no packages, there are no spellings.
func TestNamesOfSpellings(t *testing.T) {
	p, _ := replica(t, inmemory.New())
	p.options.Names.Prefix = "nix"
	for name, want := range map[string]string{"b/a": "b/a", "nix/b/a": "nix/a/b", "nix/b/shell": "nix/b/shell"} {
		ctx := requesting(t, http.MethodGet, name, "")
		at, err := p.home(ctx, p.repository(t, name))
		if err != nil || at.Named().Name() != want || (at.asked == nil) != (name == want) {
			t.Errorf("the home of %s is %s, %v; want %s", name, at, err, want)
		}
	}
}

// TestSpellingsWithoutARegistry: a program that has the middleware by a blank import alone has
// spellings, too.
func TestSpellingsWithoutARegistry(t *testing.T) {
	p, _ := replica(t, inmemory.New())
	ctx := requesting(t, http.MethodGet, "b/a", "latest")
	asked := p.repository(t, "b/a")
	repo, err := new(plugin).repository(ctx, asked, map[string]any{serviceKey: p.Service})
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Tags(ctx).Get(ctx, "latest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifests.Get(ctx, desc.Digest); err != nil {
		t.Error(err)
	}
	if _, err := repo.Blobs(ctx).Stat(ctx, builtConfig()); err != nil {
		t.Error(err)
	}
	if _, err := asked.Tags(ctx).All(ctx); !errors.As(err, new(distribution.ErrRepositoryUnknown)) {
		t.Errorf("something is stored for the spelling: %v", err)
	}
}
