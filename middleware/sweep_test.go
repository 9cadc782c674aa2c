package middleware

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/faulty"
)

// A subject is what a fault happens in.
type subject struct {
	name string
	// before is done without a fault.
	before func(c *sweptClient)
	// run is done with it. It goes on after a fault, as clients do.
	run func(c *sweptClient)
	// after is done without it again: by the same process, unless that has ended, and by the next
	// one. What clients were told is checked before and after it.
	after func(c *sweptClient)
}

// subjects are all that is swept. A new one has its name here, and a run of some hundred calls at most.
func subjects() []subject {
	return []subject{pulls()}
}

// TestSweep has a fault of every kind at every storage call of each subject. By default it takes a
// sample: every STEPth call, from a random one on. SWEEP=1 (make sweep) is all of them, SWEEP=1+30
// begins at the 30th.
//
// What clients were told must hold for ever: an image that was served or pushed is served whole, under
// the same tag. The fault must not last: the next pull has an image that is as without the fault. And
// no record may be false.
func TestSweep(t *testing.T) {
	output := logrus.StandardLogger().Out
	logrus.SetOutput(io.Discard) // each fault has its lines
	defer logrus.SetOutput(output)
	step, first := sweepStep(t)
	for _, subject := range subjects() {
		for storage, open := range sweptStorages(t) {
			calls := callsOf(t, subject, open())
			for _, kind := range append(faulty.Kinds(), faulty.Half) {
				t.Run(fmt.Sprintf("%s/%s/%s", subject.name, storage, kind), func(t *testing.T) {
					tried, struck := 0, 0
					for n := first; n <= len(calls); n += step {
						if kind == faulty.Half && !strings.HasPrefix(calls[n-1].name, "Write ") {
							continue // no driver leaves half of another file
						}
						tried++
						if sweepOne(t, subject, open(), calls[n-1].fault(kind), n) {
							struck++
						}
					}
					t.Logf("%d faults at %d of %d calls, every %dth from the %dth on",
						struck, tried, len(calls), step, first)
					if struck < tried*9/10 {
						t.Error("the calls are others each time")
					}
				})
			}
		}
	}
}

// sweepSample is the step of a sample.
const sweepSample = 17

// sweepStep reads SWEEP.
func sweepStep(t *testing.T) (step, first int) {
	t.Helper()
	step, first = sweepSample, 1+rand.IntN(sweepSample)
	given := os.Getenv("SWEEP")
	if given == "" {
		return step, first
	}
	stepText, firstText, ok := strings.Cut(given, "+")
	if !ok {
		firstText = "1"
	}
	step, err := strconv.Atoi(stepText)
	first, err2 := strconv.Atoi(firstText)
	if err != nil || err2 != nil || step < 1 || first < 1 {
		t.Fatalf("SWEEP is %q, want STEP or STEP+FIRST", given)
	}
	return step, first
}

// sweptStorages open empty storages of two kinds.
func sweptStorages(t *testing.T) map[string]func() driver.StorageDriver {
	return map[string]func() driver.StorageDriver{
		"inmemory": func() driver.StorageDriver { return inmemory.New() },
		"filesystem": func() driver.StorageDriver {
			dir, err := os.MkdirTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			return filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: 100})
		},
	}
}

// A sweptCall is the nth one of those that have its name. Goroutines make calls in another order each
// time, so their numbers alone would leave some of them out.
type sweptCall struct {
	name string
	nth  int
}

// random is what names of files have that is another each time: of uploads, and of pending links.
var random = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|-[a-z2-7]{26}$`)

func nameOf(c faulty.Call) string { return random.ReplaceAllString(c.String(), "*") }

func (s sweptCall) fault(kind faulty.Kind) faulty.Fault {
	is := func(c faulty.Call) bool { return nameOf(c) == s.name }
	fault := faulty.Fault{Kind: kind, At: s.nth, Of: is, Delay: 20 * time.Millisecond}
	if kind != faulty.FailFrom {
		return fault
	}
	seen := 0 // all that come after it fail, whatever their names
	fault.At = 1
	fault.Of = func(c faulty.Call) bool {
		if is(c) {
			seen++
		}
		return seen >= s.nth
	}
	return fault
}

// callsOf runs a subject without a fault.
func callsOf(t *testing.T, subject subject, storage driver.StorageDriver) (calls []sweptCall) {
	t.Helper()
	files := faulty.New(storage)
	client := &sweptClient{t: t, told: make(map[string]digest.Digest)}
	client.ask(startSwept(t, files, "r1"), "without a fault")
	subject.before(client)
	client.registry.settle(t.Context())
	seen := make(map[string]int)
	files.Before(func(c faulty.Call) {
		name := nameOf(c)
		seen[name]++
		calls = append(calls, sweptCall{name, seen[name]})
	})
	subject.run(client)
	client.registry.settle(t.Context())
	files.Before(nil)
	return calls
}

// sweepOne is false if there was no such call. N is its number, for messages.
func sweepOne(t *testing.T, subject subject, storage driver.StorageDriver, fault faulty.Fault, n int) bool {
	t.Helper()
	files := faulty.New(storage)
	client := &sweptClient{t: t, told: make(map[string]digest.Digest)}
	client.ask(startSwept(t, files, "r1"), "before")
	subject.before(client)
	client.registry.settle(t.Context())
	files.Inject(fault)
	client.faulty, client.as = fault.Kind, "with the fault"
	subject.run(client)
	client.registry.settle(t.Context())
	struck, ok := files.Struck()
	files.Heal()
	revision := client.registry.builder.revision
	if !files.Ended() {
		client.ask(client.registry, "afterwards")
		client.check()
		subject.after(client)
	}
	client.ask(startSwept(t, faulty.New(storage), revision), "the next process")
	client.check()
	subject.after(client)
	client.registry.settle(t.Context())
	client.check()
	client.checkRecords()
	if t.Failed() {
		t.Fatalf("%s at call %d: %s; SWEEP=1+%d is near it", fault.Kind, n, struck, n)
	}
	return ok
}

// A sweptClient pulls and pushes, and knows what it was told.
type sweptClient struct {
	t        *testing.T
	registry *swept
	faulty   faulty.Kind // None: nothing may fail
	as       string      // who is asked, for messages
	// told are the digests that REPOSITORY:TAG has, and REPOSITORY@DIGEST of what is there besides.
	told map[string]digest.Digest
	// whole are the blobs, as REPOSITORY@DIGEST, that a process has served.
	whole map[string]bool
}

// ask has another process asked, or the same without a fault.
func (c *sweptClient) ask(registry *swept, as string) {
	c.registry, c.as, c.faulty, c.whole = registry, as, faulty.None, make(map[string]bool)
}

func (c *sweptClient) errorf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf(c.as+": "+format, args...)
}

// request makes one, and returns the body of an answer of a status that is wanted; not ok: the fault
// has failed it.
func (c *sweptClient) request(method, url, mediaType string, body []byte, want int) (answer []byte, ok bool) {
	c.t.Helper()
	response, heard := c.registry.do(context.WithoutCancel(c.t.Context()), method, url, mediaType, body)
	answer = response.Body.Bytes()
	switch {
	case !heard:
		return nil, false
	case response.Code == want:
		if location := response.Header().Get("Location"); location != "" {
			answer = []byte(location)
		}
		return answer, true
	case c.faulty == faulty.None, response.Code < http.StatusInternalServerError && c.faulty != faulty.NotFound:
		c.errorf("%s %s: %d %s", method, url, response.Code, answer)
	}
	return nil, false
}

// pull gets the image of a tag or a digest, and all of its blobs. Want is the digest; empty: any.
func (c *sweptClient) pull(repository, reference, accept string, want digest.Digest) {
	c.t.Helper()
	base := "/v2/" + repository
	payload, ok := c.request(http.MethodGet, base+"/manifests/"+reference, accept, nil, http.StatusOK)
	if !ok {
		return
	}
	got := digest.FromBytes(payload)
	if want != "" && got != want && c.faulty == faulty.None { // with a fault it may be an older one
		c.errorf("%s:%s is %s, want %s", repository, reference, got, want)
	}
	if strings.Contains(reference, ":") || accept != v1.MediaTypeImageManifest {
		c.told[repository+"@"+got.String()] = got
	} else {
		c.told[repository+":"+reference] = got
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(payload, &manifest); err != nil {
		c.errorf("%s:%s can't be parsed: %v", repository, reference, err)
	}
	for _, part := range append(manifest.Layers, manifest.Config) {
		if c.whole[repository+"@"+part.Digest.String()] {
			continue
		}
		blob, ok := c.request(http.MethodGet, base+"/blobs/"+part.Digest.String(), "*/*", nil, http.StatusOK)
		if !ok {
			continue
		}
		if digest.FromBytes(blob) == part.Digest {
			c.whole[repository+"@"+part.Digest.String()] = true
		} else if c.faulty == faulty.None {
			c.errorf("blob %s of %s is another", part.Digest, repository)
		}
	}
}

// pullBuilt pulls a tag that is to have what is built at a revision.
func (c *sweptClient) pullBuilt(repository, tag, revision string) {
	c.t.Helper()
	c.pull(repository, tag, v1.MediaTypeImageManifest, sweptImage(repository, revision).Manifest.Digest)
}

// push pushes the image of a note under a tag. The note is its only layer.
func (c *sweptClient) push(repository, tag, note string) {
	c.t.Helper()
	pushed := manifestOf(note)
	upload, ok := c.request(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", []byte{}, http.StatusAccepted)
	if !ok {
		return
	}
	commit := string(upload) + "&digest=" + digest.FromBytes(pushed.Config).String()
	if _, ok := c.request(http.MethodPut, commit, "application/octet-stream", pushed.Config, http.StatusCreated); !ok {
		return
	}
	manifest := "/v2/" + repository + "/manifests/" + tag
	if _, ok := c.request(http.MethodPut, manifest, pushed.MediaType, pushed.Payload, http.StatusCreated); ok {
		c.told[repository+":"+tag] = pushed.Digest
	}
}

// check checks that all that the client was told is there, and that nothing of it is built again.
func (c *sweptClient) check() {
	c.t.Helper()
	built := len(c.registry.builder.built)
	for what, dgst := range maps.Clone(c.told) {
		repository, reference, _ := strings.Cut(what, "@")
		if reference == "" {
			repository, reference, _ = strings.Cut(what, ":")
		}
		if revision := c.registry.builder.revision; reference == "latest" &&
			dgst != sweptImage(repository, revision).Manifest.Digest && c.registry.isBuilt(c.t, repository, reference) {
			continue // there is a newer one to build
		}
		c.pull(repository, reference, v1.MediaTypeImageManifest+","+dockerType, dgst)
		c.pull(repository, dgst.String(), v1.MediaTypeImageManifest+","+dockerType, dgst)
	}
	if again := c.registry.builder.built[built:]; len(again) > 0 {
		c.errorf("%v was built again", again)
	}
}

// isBuilt tells whether what a tag has was built.
func (s *swept) isBuilt(t *testing.T, repository, tag string) bool {
	t.Helper()
	p := pulling{Service: s.Service}
	image, err := s.store.LookUp(t.Context(), p.repository(t, repository), tag)
	if err != nil {
		t.Fatal(err)
	}
	return image.Digest != "" && !image.Pushed
}

// checkRecords checks what is recorded of the layers of all images that there may be, and that no link
// is pending.
func (c *sweptClient) checkRecords() {
	c.t.Helper()
	ctx := c.t.Context()
	for _, image := range []string{"git", "htop", "git/htop"} {
		for _, revision := range []string{"r1", "r2"} {
			for _, layer := range sweptLayers(image, revision) {
				record, ok, err := c.registry.builder.layers.Get(ctx, sweptKey(layer))
				if err != nil || ok && record.Digest != digest.FromBytes(layer) {
					c.errorf("the record of a layer is %+v, %v", record, err)
				}
			}
		}
	}
	pending, err := c.registry.store.State().List(ctx, "links")
	if err != nil || len(pending) > 0 {
		c.errorf("links are pending: %q, %v", pending, err)
	}
}

// pulls are builds, commits, links and serving of two images that share layers, of two revisions, and
// pushes between them.
func pulls() subject {
	const oci = v1.MediaTypeImageManifest
	return subject{
		name:   "pulls",
		before: func(c *sweptClient) { c.push("htop", "latest", "somebody's own htop") },
		run: func(c *sweptClient) {
			c.pullBuilt("git", "latest", "r1")
			c.push("git", "mine", "somebody's own git")
			c.pullBuilt("git/htop", "latest", "r1")
			c.pull("git", "latest", dockerType, "")
			c.registry.builder.revision = "r2"
			c.pullBuilt("git", "latest", "r2")
			c.pullBuilt("git", "r1", "r1")
		},
		after: func(c *sweptClient) {
			c.pull("htop", "latest", oci, manifestOf("somebody's own htop").Digest)
			for _, repository := range []string{"git", "git/htop"} {
				c.pullBuilt(repository, "latest", "r2")
				if tags := c.tags(repository); !slices.Contains(tags, "r2") { // which latest brings
					c.errorf("the tags of %s are %q", repository, tags)
				}
				c.pullBuilt(repository, "r2", "r2")
				c.pullBuilt(repository, "r1", "r1")
			}
			c.push("git", "mine", "somebody's own git")
			c.pull("git", "r1", dockerType, "") // a form that can't be remembered is by the next pull
		},
	}
}

// tags lists those of a repository.
func (c *sweptClient) tags(repository string) (tags []string) {
	c.t.Helper()
	answer, _ := c.request(http.MethodGet, "/v2/"+repository+"/tags/list", "", nil, http.StatusOK)
	var list struct{ Tags []string }
	if err := json.Unmarshal(answer, &list); err != nil {
		c.errorf("the tags of %s can't be parsed: %v", repository, err)
	}
	return list.Tags
}
