package collection_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

// The candidate of these tests, in repository a.
var candidate = imageOf("old", "shared", "own")

// prepared is a world in which an image has no tag any more, and another one shares a layer. One
// process collects, and another one does something else.
func prepared(t *testing.T, watches bool) (w *world, collects, other *process) {
	t.Helper()
	w = newWorld()
	collects, other = w.process(t, true), w.process(t, watches)
	must(t, other.build("a", "r1", candidate, "shared", "own"))
	must(t, other.push("b", "mine", imageOf("other", "shared"), "shared"))
	for _, layer := range []string{"shared", "own"} { // the descriptors are cached
		_, err := other.repo("a").Blobs(other.request()).Stat(other.request(), digest.FromString(layer))
		must(t, err)
	}
	other.untag("a", "r1")
	w.files.age(t)
	return w, collects, other
}

// A deed is what a client or a build does meanwhile. It has no error if it was told that all is
// stored, or has pulled all.
type deed struct {
	name string
	do   func(p *process) error
	repo string        // where something is then
	has  digest.Digest // of a manifest; empty: it is the layer alone
}

func deeds() []deed {
	built, pushed, same := imageOf("built", "own", "fresh"), imageOf("pushed", "own", "theirs"), imageOf("same", "own")
	index := indexOf(candidate.Manifest)
	return []deed{
		{
			"build with the layer", func(p *process) error { return p.build("x", "latest", built, "own", "fresh") },
			"x", built.Manifest.Digest,
		},
		{
			"build it again", func(p *process) error { return p.build("a", "r1", candidate, "shared", "own") },
			"a", candidate.Manifest.Digest,
		},
		{
			"push with the layer", func(p *process) error { return p.push("c", "mine", pushed, "own", "theirs") },
			"c", pushed.Manifest.Digest,
		},
		{
			"push where it was", func(p *process) error { return p.push("a", "mine", same, "own") },
			"a", same.Manifest.Digest,
		},
		{
			"tag it again", func(p *process) error { return p.put("a", "mine", candidate.Manifest) },
			"a", candidate.Manifest.Digest,
		},
		{"push an index of it", func(p *process) error { return p.put("a", "mine", index) }, "a", index.Digest},
		{"mount the layer", func(p *process) error { return p.mount("m", "mine", same, "own") }, "m", same.Manifest.Digest},
		{"upload the layer", func(p *process) error { return p.upload("u", "own") }, "u", ""},
		{"pull it by digest", func(p *process) error { return p.pull("a", candidate.Manifest) }, "", ""},
		{"pull another", func(p *process) error { return p.pull("b", imageOf("other", "shared").Manifest) }, "", ""},
	}
}

// mount pushes an image whose layers are mounted from repository a, where there are.
func (p *process) mount(repo, tag string, img image.Image, layers ...string) error {
	for _, layer := range layers {
		from, err := reference.WithName("a")
		if err != nil {
			return err
		}
		blob, err := reference.WithDigest(from, digest.FromString(layer))
		if err != nil {
			return err
		}
		_, err = p.repo(repo).Blobs(p.request()).Create(p.request(), storage.WithMountFrom(blob))
		if errors.As(err, new(distribution.ErrBlobMounted)) {
			continue
		}
		if err == nil {
			err = p.upload(repo, layer)
		}
		if err != nil {
			return err
		}
	}
	if err := p.upload(repo, string(img.Manifest.Config)); err != nil {
		return err
	}
	return p.put(repo, tag, img.Manifest)
}

// errTorn is of a pull that got a manifest and not all that it refers to.
var errTorn = errors.New("the image is torn")

// pull pulls a manifest by its digest and then its blobs.
func (p *process) pull(repo string, m image.Manifest) error {
	if leaving, err := p.gate.Leaving(p.request(), m.Digest); leaving || err != nil {
		return fmt.Errorf("it is leaving: %w", err)
	}
	manifests, err := p.repo(repo).Manifests(p.request())
	if err != nil {
		return err
	}
	manifest, err := manifests.Get(p.request(), m.Digest)
	if err != nil {
		return err
	}
	for _, part := range manifest.References() {
		blobs := p.repo(repo).Blobs(p.request())
		if _, err := blobs.Get(p.request(), part.Digest); err != nil {
			return fmt.Errorf("%w: %s: %w", errTorn, part.Digest, err)
		}
	}
	return nil
}

// verify tells whether a deed that was told of success left what it should, and whether everything
// else is whole. Late says that it stood still for minutes.
func (d deed) verify(w *world, err error, late bool) error {
	if errors.Is(err, errTorn) && !late {
		return err
	}
	if err == nil && d.repo != "" {
		lost := w.linked(paths.Layer(d.repo, digest.FromString("own")), digest.FromString("own"))
		if d.has != "" {
			lost = w.whole(d.repo, d.has)
		}
		if lost != nil {
			return fmt.Errorf("it was told that all is stored: %w", lost)
		}
	}
	return w.check(late && err != nil)
}

// Whatever is done right before any call of a run is done, and what it was told is true.
func TestDeedDuringRun(t *testing.T) {
	for _, d := range deeds() {
		for _, watches := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/watching %v", d.name, watches), func(t *testing.T) {
				t.Parallel() // builds wait most of the time
				for n, refused := 1, 0; ; n++ {
					w, collects, other := prepared(t, watches)
					done, err := false, error(nil)
					collects.calls.count(func(call int) error {
						if call == n {
							done, err = true, d.do(other)
						}
						return nil
					})
					if _, err := collects.collector.Collect(t.Context()); err != nil {
						t.Fatalf("call %d: %v", n, err)
					}
					if !done {
						if n < 50 {
							t.Errorf("a run makes %d calls", n)
						}
						t.Logf("%d calls, refused at %d", n-1, refused)
						break
					}
					if err != nil {
						refused++
					}
					if wrong := d.verify(w, err, !watches && d.repo == ""); wrong != nil {
						t.Fatalf("call %d: after %v: %v", n, err, wrong)
					}
				}
			})
		}
	}
}

// Whatever stands still before any of its calls while a whole run goes by, is told the truth.
func TestRunDuringDeed(t *testing.T) {
	for _, d := range deeds() {
		for _, watches := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/watching %v", d.name, watches), func(t *testing.T) {
				t.Parallel() // builds wait most of the time
				for n := 1; ; n++ {
					w, collects, other := prepared(t, watches)
					run := stalled(t, other, d, n)
					if !run.reached {
						must(t, d.verify(w, run.err, false))
						break
					}
					if _, err := collects.collector.Collect(t.Context()); err != nil {
						t.Fatalf("call %d: %v", n, err)
					}
					err := run.goOn()
					if wrong := d.verify(w, err, true); wrong != nil {
						t.Fatalf("call %d: after %v: %v", n, err, wrong)
					}
				}
			})
		}
	}
}

// A stalling is a deed that stands still.
type stalling struct {
	reached bool
	err     error // if it did not
	goOn    func() error
}

// stalled begins a deed, which stands still before a call.
func stalled(t *testing.T, p *process, d deed, n int) stalling {
	t.Helper()
	reached, release, done := make(chan struct{}, 100), make(chan struct{}), make(chan error, 1)
	p.calls.count(func(call int) error {
		if call >= n {
			select {
			case reached <- struct{}{}:
			default:
			}
			<-release
		}
		return nil
	})
	go func() { done <- d.do(p) }()
	select {
	case <-reached:
		return stalling{reached: true, goOn: func() error {
			close(release)
			return <-done
		}}
	case err := <-done:
		return stalling{err: err}
	}
}

// Whatever begins before any call of a run, stands still before any of its own, and goes on before
// any later call of the run, is told the truth. In CI, that is a sample; COLLECTION=1 tries all.
func TestDeedAcrossRun(t *testing.T) {
	every := 499
	if text := os.Getenv("COLLECTION"); text != "" {
		var err error
		every, err = strconv.Atoi(text)
		must(t, err)
	}
	w, collects, _ := prepared(t, true)
	collects.calls.count(nil)
	_, err := collects.collector.Collect(t.Context())
	must(t, err)
	must(t, w.check(false))
	calls := collects.calls.calls
	for _, d := range deeds() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			_, _, other := prepared(t, true)
			other.calls.count(nil)
			must(t, d.do(other))
			number, tried, refused := 0, 0, 0
			for from := 1; from <= calls; from++ {
				for at := 1; at <= other.calls.calls; at++ {
					for to := from + 1; to <= calls+1; to++ {
						if number++; number%every != 0 {
							continue
						}
						tried++
						if err := across(t, d, from, at, to); err != nil {
							refused++
						}
					}
				}
			}
			t.Logf("%d of %d were tried, %d refused", tried, number, refused)
		})
	}
}

// across tries one of them. It returns what the deed was told.
func across(t *testing.T, d deed, from, at, to int) (told error) {
	t.Helper()
	w, collects, other := prepared(t, true)
	var run stalling
	collects.calls.count(func(call int) error {
		if call == from {
			run = stalled(t, other, d, at)
			told = run.err
		}
		if call == to && run.reached {
			run.reached, told = false, run.goOn()
		}
		return nil
	})
	if _, err := collects.collector.Collect(t.Context()); err != nil {
		t.Fatalf("from %d, at %d, to %d: %v", from, at, to, err)
	}
	if run.reached {
		told = run.goOn()
	}
	if wrong := d.verify(w, told, true); wrong != nil {
		t.Fatalf("from %d, at %d, to %d: after %v: %v", from, at, to, told, wrong)
	}
	return told
}
