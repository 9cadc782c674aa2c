package middleware

import (
	"fmt"
	"io"
	"math/rand/v2"
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
