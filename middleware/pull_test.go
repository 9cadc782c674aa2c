package middleware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/middleware/imagestore"
	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// A fakeBuilder makes images without layers, of which each revision has another.
type fakeBuilder struct {
	builder // what a pull does not ask

	// What it answers with.
	revision          string // of every tag but those of revisions
	current           bool   // whether that can be told at once
	stale             error
	origin            string // as if the operator had configured every revision
	pinErr, buildErr  error
	missing           []string
	bytes             string // of which images have others
	pinTime, makeTime time.Duration
	during            func() // of each build
	offers            []string
	refusal           error

	// What was asked.
	mu       sync.Mutex
	pinned   []string // tags
	built    []string // NAME@REVISION
	byClient []bool
	doubting []bool // of each Pin
	doubted  atomic.Int32
}

func (b *fakeBuilder) Current(string) (string, bool) { return b.revision, b.current }

func (b *fakeBuilder) Offers(context.Context) []string { return b.offers }

func (b *fakeBuilder) Doubt() { b.doubted.Add(1) }

func (b *fakeBuilder) Refusal(context.Context, names.Request) error { return b.refusal }

func (b *fakeBuilder) Pin(ctx context.Context, tag string) (source.Pinned, error) {
	b.mu.Lock()
	b.pinned = append(b.pinned, tag)
	b.doubting = append(b.doubting, source.Doubts(ctx))
	b.mu.Unlock()
	time.Sleep(b.pinTime)
	return source.Pinned{Name: "the set", Revision: b.revision, Stale: b.stale, Origin: b.origin}, b.pinErr
}

func (b *fakeBuilder) Build(
	_ context.Context, request names.Request, pinned source.Pinned, who limit.Asker, _ nixbuilder.Repository,
) (image.Image, error) {
	b.mu.Lock()
	b.built = append(b.built, request.String()+"@"+pinned.Revision)
	b.byClient = append(b.byClient, who.ByClient)
	b.mu.Unlock()
	time.Sleep(b.makeTime)
	if b.during != nil {
		b.during()
	}
	if b.buildErr != nil {
		return image.Image{}, b.buildErr
	}
	return image.Image{
		Manifest: manifestOf(pinned.Revision + b.bytes + " without " + fmt.Sprint(b.missing)), Missing: b.missing,
		Source: pinned.Name, Revision: pinned.Revision, NixVersion: "2.0",
	}, nil
}

// manifestOf is a manifest without layers, another for each note.
func manifestOf(note string) image.Manifest {
	config := fmt.Appendf(nil, `{"note":%q}`, note)
	payload := fmt.Appendf(
		nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[]}`,
		v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, digest.FromBytes(config), len(config),
	)
	return image.Manifest{
		MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(payload), Payload: payload, Config: config,
	}
}

// pulling is a Service over a fakeBuilder, and the repository git.
type pulling struct {
	*Service
	builder *fakeBuilder
	files   driver.StorageDriver
	repo    distribution.Repository
}

// newPulling is called outside of a bubble: caches have goroutines of their own that never end.
func newPulling(t *testing.T) *pulling {
	t.Helper()
	return newPullingOn(t, inmemory.New())
}

func newPullingOn(t *testing.T, files driver.StorageDriver) *pulling {
	t.Helper()
	registry, err := storage.NewRegistry(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	options := defaults()
	builder := &fakeBuilder{revision: "r1", origin: "configured"}
	service := &Service{
		config: new(configuration.Configuration), options: options, form: options.form(), tags: options.tags(),
		builder: builder,
	}
	if err := service.open(registry, files); err != nil {
		t.Fatal(err)
	}
	p := &pulling{Service: service, builder: builder, files: files}
	p.repo = p.repository(t, "git")
	return p
}

func (p *pulling) repository(t *testing.T, name string) distribution.Repository {
	t.Helper()
	named, err := reference.WithName(name)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := p.namespace.Repository(t.Context(), named)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// pull asks as a client without a login does.
func (p *pulling) pull(t *testing.T, tag string) (answer, error) {
	t.Helper()
	return p.Service.pull(t.Context(), p.repo, tag, client{name: "192.0.2.1", hold: p.options.Build.Hold})
}

// want pulls a tag and says what was wrong with the answer.
func (p *pulling) want(t *testing.T, tag, revision string, stale bool) answer {
	t.Helper()
	got, err := p.pull(t, tag)
	if err != nil || got.Digest == "" || got.Pushed || got.Revision != revision || got.stale != stale {
		t.Errorf("%s is %+v, %v; want that of %s, stale %t", tag, got, err, revision, stale)
	}
	return got
}

// stored is the image of the tag latest.
func (p *pulling) stored(t *testing.T) imagestore.Image {
	t.Helper()
	image, err := p.store.LookUp(t.Context(), p.repo, "latest")
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// asked checks how often the builder was asked since the last call.
func (p *pulling) asked(t *testing.T, pins, builds int) {
	t.Helper()
	p.builder.mu.Lock()
	defer p.builder.mu.Unlock()
	if len(p.builder.pinned) != pins || len(p.builder.built) != builds {
		t.Errorf("asked for the revision of %q, want %d; built %q, want %d",
			p.builder.pinned, pins, p.builder.built, builds)
	}
	p.builder.pinned, p.builder.built = nil, nil
}

// push stores an image as clients do.
func (p *pulling) push(t *testing.T, tag string) digest.Digest {
	t.Helper()
	return p.pushTo(t, p.repo, tag, manifestOf("pushed"))
}

func (p *pulling) pushTo(t *testing.T, repo distribution.Repository, tag string, pushed image.Manifest) digest.Digest {
	t.Helper()
	manifest, desc, err := distribution.UnmarshalManifest(pushed.MediaType, pushed.Payload)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := repo.Manifests(t.Context(), storage.SkipLayerVerification())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifests.Put(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	if err := repo.Tags(t.Context()).Tag(t.Context(), tag, desc); err != nil {
		t.Fatal(err)
	}
	return pushed.Digest
}

// An image is built when it is not there, and again when the package set has changed. The builder
// is asked for a revision only where it can't tell the present one at once, and once for each pull.
func TestPullRefresh(t *testing.T) {
	p := newPulling(t)
	synctest.Test(t, func(t *testing.T) {
		first := p.want(t, "latest", "r1", false)
		p.asked(t, 1, 1)
		if got := p.want(t, "r1", "r1", false); got.Digest != first.Digest {
			t.Errorf("the tag of the revision is for %s, latest for %s", got.Digest, first.Digest)
		}
		p.asked(t, 1, 0)
		p.want(t, "latest", "r1", false)
		p.asked(t, 1, 0)
		p.builder.current = true
		p.want(t, "latest", "r1", false)
		p.asked(t, 0, 0)
		p.builder.revision = "r2"
		second := p.want(t, "latest", "r2", false)
		p.asked(t, 1, 1)
		if first.Digest == second.Digest {
			t.Error("both revisions have the same image")
		}
		if recent := p.recent.list(); len(recent) != 2 || recent[0].Image != "git:latest" || recent[0].Fault != "" {
			t.Errorf("recent builds are %+v", recent)
		}
		p.form = "another"
		p.want(t, "latest", "r2", false)
		p.asked(t, 1, 1)
		p.want(t, "r2", "r2", false)
		p.asked(t, 0, 0)
	})
}

// An image of an older format is made again, and answers until that is done. The tag of its revision
// keeps it. One of a newer format, as another replica makes it, is as good as one of the present.
func TestPullFormat(t *testing.T) {
	for _, test := range []struct {
		name   string
		format int
		again  bool
	}{
		{"from before there were formats", 0, true},
		{"older", nixbuilder.Format - 1, true},
		{"present", nixbuilder.Format, false},
		{"newer", nixbuilder.Format + 1, false},
	} {
		p := newPulling(t)
		present := p.store
		p.store = imagestore.New(p.files, p.namespace, imagestore.Options{Form: p.form, Format: test.format})
		p.builder.bytes = "of that format"
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := p.want(t, "latest", "r1", false)
				p.asked(t, 1, 1)
				p.store, p.builder.bytes, p.builder.makeTime = present, "", 2*p.options.Build.Hold
				if !test.again {
					p.want(t, "latest", "r1", false)
					p.asked(t, 1, 0)
					return
				}
				for range 2 {
					if got := p.want(t, "latest", "r1", true); got.Digest != before.Digest {
						t.Errorf("while it is made, the answer is %s, want %s", got.Digest, before.Digest)
					}
				}
				after := p.want(t, "latest", "r1", false)
				p.asked(t, 3, 1)
				if after.Digest == before.Digest || after.Format != nixbuilder.Format {
					t.Errorf("made again, it is %+v", after)
				}
				if got := p.want(t, "r1", "r1", false); got.Digest != before.Digest {
					t.Errorf("the tag of the revision is for %s, want %s", got.Digest, before.Digest)
				}
				p.asked(t, 1, 0)
			})
		})
	}
}

// An image that lacks a platform is tried again after refresh, and then also under the tag of its
// revision.
func TestPullMissingPlatform(t *testing.T) {
	p := newPulling(t)
	p.builder.missing = []string{"linux/arm64"}
	synctest.Test(t, func(t *testing.T) {
		p.want(t, "latest", "r1", false)
		p.want(t, "latest", "r1", false)
		p.asked(t, 2, 1)
		p.builder.missing = nil
		time.Sleep(p.options.Refresh + time.Second)
		whole := p.want(t, "latest", "r1", false)
		p.asked(t, 1, 1)
		if got := p.want(t, "r1", "r1", false); len(whole.Missing) > 0 || got.Digest != whole.Digest {
			t.Errorf("latest lacks %q; the tag of the revision is for %s, latest for %s",
				whole.Missing, got.Digest, whole.Digest)
		}
	})
}

// The registry itself answers for names that are not made of packages.
func TestPullNames(t *testing.T) {
	p := newPulling(t)
	p.options.Names = NamesOptions{Prefix: "nix", MaxPackages: 1}
	for _, test := range []struct {
		repository string
		isBuilt    bool
		notFound   bool
	}{
		{repository: "nix/git", isBuilt: true},
		{repository: "library/debian"},
		{repository: "nix/git/htop", notFound: true}, // more than maxpackages,
	} {
		t.Run(test.repository, func(t *testing.T) {
			p.repo = p.repository(t, test.repository)
			got, err := p.pull(t, "latest")
			if isBuilt := got.Digest != ""; isBuilt != test.isBuilt || status.Permanent(err) != test.notFound ||
				err != nil && !test.notFound {
				t.Errorf("the answer is %+v, %v", got, err)
			}
		})
	}
}

// What was pushed is served as it is, and never replaced.
func TestPullPushed(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		p := newPulling(t)
		pushed := p.push(t, "latest")
		if got, err := p.pull(t, "latest"); err != nil || !got.Pushed || got.Digest != pushed {
			t.Errorf("the answer is %+v, %v", got, err)
		}
		p.asked(t, 0, 0)
	})
	t.Run("over a built one", func(t *testing.T) {
		p := newPulling(t)
		p.want(t, "latest", "r1", false)
		pushed := p.push(t, "latest")
		if got, err := p.pull(t, "latest"); err != nil || !got.Pushed || got.Digest != pushed {
			t.Errorf("the answer is %+v, %v", got, err)
		}
	})
	t.Run("in between", func(t *testing.T) {
		p := newPulling(t)
		var pushed digest.Digest
		p.builder.during = func() { pushed = p.push(t, "latest") }
		got, err := p.pull(t, "latest")
		if err != nil || !got.Pushed || got.Digest != pushed || got.stale {
			t.Errorf("the answer is %+v, %v", got, err)
		}
		desc, err := p.repo.Tags(t.Context()).Get(t.Context(), "latest")
		if err != nil || desc.Digest != pushed {
			t.Errorf("the tag is for %s, %v; pushed was %s", desc.Digest, err, pushed)
		}
	})
	t.Run("before the job begins", func(t *testing.T) {
		p := newPulling(t)
		request := imageRequest{repo: p.repo, tag: "latest"}
		p.push(t, "latest")
		job, err := p.start(t.Context(), request, client{name: "192.0.2.1"}, imagestore.Image{}, source.Pinned{Revision: "r1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := job.await(t.Context(), nil); err != nil {
			t.Error(err)
		}
		p.asked(t, 0, 0)
	})
}

// An older image answers, marked as stale, while there can be no newer one; but not where a retry
// would change nothing.
func TestPullStale(t *testing.T) {
	unavailable := status.Errorf(status.Unavailable, "the remote is down")
	denied := status.Errorf(status.Denied, "it is unfree")
	for _, test := range []struct {
		name   string
		change func(*pulling)
		want   error
	}{
		{"the set can't be looked up", func(p *pulling) {
			p.builder.revision, p.builder.stale = "r1", unavailable
		}, nil},
		{"the revision can't be had", func(p *pulling) { p.builder.pinErr = unavailable }, nil},
		{"the revision takes long", func(p *pulling) { p.builder.pinTime = time.Hour }, nil},
		{"the build takes long", func(p *pulling) { p.builder.makeTime = time.Hour }, nil},
		{"the build fails", func(p *pulling) { p.builder.buildErr = errors.New("disk full") }, nil},
		{"the build fails for a while", func(p *pulling) { p.builder.buildErr = unavailable }, nil},
		{"in read-only mode", func(p *pulling) { p.readOnly = true }, nil},
		{"too many builds", func(p *pulling) { p.jobs.most = 0 }, nil},
		{"the build is refused", func(p *pulling) { p.builder.buildErr = denied }, denied},
		{"the revision is refused", func(p *pulling) { p.builder.pinErr = denied }, denied},
	} {
		p := newPulling(t)
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := p.want(t, "latest", "r1", false)
				p.builder.revision = "r2"
				test.change(p)
				got, err := p.pull(t, "latest")
				if !errors.Is(err, test.want) {
					t.Fatalf("the error is %v, want %v", err, test.want)
				}
				if err == nil && (got.Digest != before.Digest || !got.stale) {
					t.Errorf("the answer is %+v, want the stale one of r1", got)
				}
				time.Sleep(2 * time.Hour) // what goes on ends
			})
		})
	}
}

// Who may not have images built gets those that are stored.
func TestPullBarred(t *testing.T) {
	p := newPulling(t)
	barred := client{name: "192.0.2.1", barred: errNoBuilds}
	if _, err := p.Service.pull(t.Context(), p.repo, "latest", barred); !errors.Is(err, errNoBuilds) {
		t.Errorf("without an image, the error is %v", err)
	}
	p.asked(t, 0, 0)
	p.want(t, "latest", "r1", false)
	p.asked(t, 1, 1)
	for _, current := range []bool{true, false} {
		p.builder.current = current
		got, err := p.Service.pull(t.Context(), p.repo, "latest", barred)
		if err != nil || got.Revision != "r1" || got.stale == current {
			t.Errorf("with an image that is current as far as is known, %t: %+v, %v", current, got, err)
		}
	}
	p.asked(t, 0, 0)
	if n := p.recentNames.Len(); n != 1 {
		t.Errorf("%d names are remembered, want the one of the client that is not barred", n)
	}
}

// A client is sent round while its image is built, once for all who wait, and gets it when it is
// done.
func TestPullHold(t *testing.T) {
	p := newPulling(t)
	p.builder.makeTime = 2*p.options.Build.Hold + time.Second
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		for round := range 2 {
			if _, err := p.pull(t, "latest"); !errors.Is(err, errHold) {
				t.Errorf("in round %d, the error is %v", round, err)
			}
		}
		if waited := time.Since(began); waited != 2*p.options.Build.Hold {
			t.Errorf("two holds took %v", waited)
		}
		p.want(t, "latest", "r1", false)
		if waited := time.Since(began); waited != p.builder.makeTime {
			t.Errorf("the image was there after %v, want %v", waited, p.builder.makeTime)
		}
		p.asked(t, 3, 1)
		p.builder.revision = "r2"
		request := imageRequest{repo: p.repo, tag: "latest"}
		got, err := p.refresh(t.Context(), request, client{name: own}, p.stored(t))
		if err != nil || got.Revision != "r2" {
			t.Errorf("who is no client waits until the image is there: %+v, %v", got, err)
		}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		p.builder.revision = "r3"
		_, err = p.refresh(ctx, request, client{name: "192.0.2.1", hold: time.Second}, p.stored(t))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a client that has left: %v", err)
		}
		time.Sleep(time.Hour)
	})
}

// The hold is one for finding out the revision and building its image. All who wait for the
// revision of a tag that clients chose get it from the same job.
func TestPullHoldOfPin(t *testing.T) {
	p := newPulling(t)
	p.builder.pinTime = p.options.Build.Hold / 2
	p.builder.makeTime = p.options.Build.Hold
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var clients sync.WaitGroup
		for range 5 {
			clients.Go(func() {
				if _, err := p.pull(t, "v1"); !errors.Is(err, errHold) {
					t.Errorf("the error is %v", err)
				}
			})
		}
		clients.Wait()
		if waited := time.Since(began); waited != p.options.Build.Hold {
			t.Errorf("the hold took %v", waited)
		}
		p.asked(t, 1, 1)
		p.want(t, "v1", "r1", false)
		p.asked(t, 1, 0)
		time.Sleep(time.Hour)
	})
}

// A failure is remembered for a minute if asking again would only give it once more, or cost a
// build.
func TestPullFailures(t *testing.T) {
	for _, test := range []struct {
		name       string
		pin, build error
		remembered bool
	}{
		{name: "the build is refused", build: status.Errorf(status.Denied, "no"), remembered: true},
		{name: "the build is damaged", build: status.Errorf(status.Damaged, "no"), remembered: true},
		{name: "the build fails", build: errors.New("disk full")},
		{name: "the build fails for a while", build: status.Errorf(status.Unavailable, "no")},
		{name: "there is no such tag", pin: status.Errorf(status.NotFound, "no"), remembered: true},
		{name: "the tag can't be looked up", pin: status.Errorf(status.Unavailable, "no")},
	} {
		p := newPulling(t)
		p.builder.pinErr, p.builder.buildErr = test.pin, test.build
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				times := 2
				if test.remembered {
					times = 1
				}
				for range 2 {
					if _, err := p.pull(t, "v1"); !errors.Is(err, cmp.Or(test.pin, test.build)) {
						t.Errorf("the error is %v", err)
					}
				}
				if test.pin != nil {
					p.asked(t, times, 0)
				} else {
					p.asked(t, 2, times)
				}
				time.Sleep(failureMemory + time.Second)
				if _, err := p.pull(t, "v1"); err == nil {
					t.Error("no error")
				}
				if test.pin != nil {
					p.asked(t, 1, 0)
				} else {
					p.asked(t, 1, 1)
				}
			})
		})
	}
}

// In read-only mode, there are the images that there are.
func TestPullReadOnly(t *testing.T) {
	p := newPulling(t)
	p.want(t, "latest", "r1", false)
	p.asked(t, 1, 1)
	p.readOnly = true
	p.want(t, "latest", "r1", false)
	if _, err := p.pull(t, "v1"); !errors.Is(err, errReadOnly) {
		t.Errorf("without an image, the error is %v", err)
	}
	p.asked(t, 2, 0)
}

// The builder is told which revisions clients chose.
func TestPullByClient(t *testing.T) {
	p := newPulling(t)
	p.tags = append(p.tags, "stable")
	for _, test := range []struct {
		tag, origin, revision string
		want                  bool
	}{
		{"latest", "", "r1", false},
		{"stable", "", "r2", false},
		{"v1", "configured", "r3", false},
		{"v2", "", "r4", true},
	} {
		p.builder.origin, p.builder.revision = test.origin, test.revision
		p.want(t, test.tag, test.revision, false)
		if got := p.builder.byClient[len(p.builder.byClient)-1]; got != test.want {
			t.Errorf("%s, of origin %q, is by a client: %t", test.tag, test.origin, got)
		}
	}
}

// One client may ask for so many images that are not there.
func TestPullRate(t *testing.T) {
	p := newPulling(t)
	var err error
	if p.rate, err = newRate(1); err != nil {
		t.Fatal(err)
	}
	p.want(t, "latest", "r1", false)
	p.repo = p.repository(t, "htop")
	if _, err := p.pull(t, "latest"); !errors.As(err, new(busyFor)) {
		t.Errorf("the error is %v", err)
	}
	p.asked(t, 1, 1)
	p.repo = p.repository(t, "git")
	p.builder.revision = "r2"
	p.want(t, "latest", "r2", false)
}

// Build does what a pull does, and says what it found.
func TestServiceBuild(t *testing.T) {
	p := newPulling(t)
	for _, step := range []struct {
		name   string
		before func()
		how    string
	}{
		{"not there", func() {}, Built},
		{"there", func() {}, Unchanged},
		{"there, and known to be current", func() { p.builder.current = true }, Unchanged},
		{"of an older revision", func() { p.builder.revision = "r2" }, Built},
		{"pushed while it is built", func() {
			p.builder.revision = "r3"
			p.builder.during = func() { p.push(t, "latest") }
		}, Pushed},
		{"pushed", func() {}, Pushed},
	} {
		step.before()
		got, err := p.Build(t.Context(), "git")
		if err != nil || got.How != step.how || got.Image != "git:latest" || got.Digest == "" {
			t.Errorf("%s: %+v, %v", step.name, got, err)
		}
	}
	if !slices.Equal(p.builder.built, []string{"git@r1", "git@r2", "git@r3"}) {
		t.Errorf("built were %q", p.builder.built)
	}
	if _, err := p.Build(t.Context(), "git:a/b"); err == nil {
		t.Error("what is no name of an image is built")
	}
}
