package collection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/middleware/collection"
	"github.com/nixery-registry/nixery-registry/middleware/paths"
	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

// A run that dies at any call leaves everything whole. Writes are refused for a while at most, and
// the next run finishes.
func TestRunDies(t *testing.T) {
	for n := 1; ; n++ {
		w, collects, other := prepared(t, true)
		dead := false
		collects.calls.count(func(call int) error {
			if dead = dead || call >= n; dead {
				return errDead
			}
			return nil
		})
		_, err := collects.collector.Collect(t.Context())
		if !dead {
			must(t, err)
			break
		}
		if !errors.Is(err, errDead) {
			t.Fatalf("call %d: %v", n, err)
		}
		must(t, w.check(false))
		w.pass(t, collection.SweepTime+30*time.Second)
		if err := other.push("c", "mine", imageOf("pushed", "theirs"), "theirs"); err != nil {
			t.Fatalf("call %d: a push after the sweep's time: %v", n, err)
		}
		if _, err := other.collector.Collect(t.Context()); err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
		must(t, w.check(false))
		for _, blob := range []string{"own", string(candidate.Manifest.Payload), string(candidate.Manifest.Config)} {
			if w.has(digest.FromString(blob)) {
				t.Errorf("call %d: %q is left", n, blob)
			}
		}
	}
}

// Whatever dies at any call while a run goes by leaves everything whole that was before.
func TestDeedDies(t *testing.T) {
	for _, d := range deeds() {
		for n := 1; ; n++ {
			w, collects, other := prepared(t, true)
			dead := false
			other.calls.count(func(call int) error {
				if dead = dead || call >= n; dead {
					return errDead
				}
				return nil
			})
			err := d.do(other)
			other.watches = false
			if _, err := collects.collector.Collect(t.Context()); err != nil {
				t.Fatalf("%s, call %d: %v", d.name, n, err)
			}
			if wrong := d.verify(w, err, dead); wrong != nil {
				t.Fatalf("%s, call %d: after %v: %v", d.name, n, err, wrong)
			}
			if !dead {
				break
			}
		}
	}
}

// Two runs at a time do no harm to each other, nor to a push between any two calls of one of them.
func TestTwoRuns(t *testing.T) {
	d := deeds()[2]
	for n := 1; ; n++ {
		w, first, other := prepared(t, true)
		second := w.process(t, true)
		began := false
		first.calls.count(func(call int) error {
			if call == n {
				began = true
				if _, err := second.collector.Collect(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
		if _, err := first.collector.Collect(t.Context()); err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
		if !began {
			break
		}
		w.pass(t, 30*time.Second)
		if wrong := d.verify(w, d.do(other), false); wrong != nil {
			t.Fatalf("call %d: %v", n, wrong)
		}
	}
}

// A registry that has cached the descriptors of what was collected, in whatever way it learns of the
// run, does not say that it is there, and stores it again.
func TestCachesAfterRun(t *testing.T) {
	own := digest.FromString("own")
	for _, watches := range []bool{true, false} {
		t.Run(fmt.Sprintf("watching %v", watches), func(t *testing.T) {
			w, collects, other := prepared(t, watches)
			_, err := collects.collector.Collect(t.Context())
			must(t, err)
			w.pass(t, 2*collection.SightAge)
			if !watches { // it looks when something is written, and refuses what began before that
				_ = other.upload("e", "something else")
			}
			must(t, other.upload("e", "own")) // which the cache has for all repositories then
			if _, err := other.repo("a").Blobs(other.request()).Stat(other.request(), own); err == nil {
				t.Error("the layer is said to be there, and is in another repository")
			}
			pushed := imageOf("pushed", "own")
			must(t, other.push("a", "mine", pushed, "own"))
			must(t, w.whole("a", pushed.Manifest.Digest))
			must(t, w.check(false))
		})
	}
}

// Who has a manifest, has all that it is made of later: of an image, and of an index.
func TestPullAcrossRun(t *testing.T) {
	child := imageOf("child", "own", "more")
	index := indexOf(child.Manifest)
	for _, touched := range []image.Manifest{child.Manifest, index} {
		w := newWorld()
		collects, other := w.process(t, true), w.process(t, true)
		img := child
		img.Manifest, img.Children = index, []image.Manifest{child.Manifest}
		must(t, other.build("a", "r1", img, "own", "more"))
		other.untag("a", "r1")
		w.files.age(t)
		pulled := false
		collects.calls.count(func(int) error {
			if runs, _ := w.files.List(t.Context(), collection.RunsDir); len(runs) == 0 || pulled {
				return nil
			}
			pulled = true
			must(t, other.gate.WatchNow(t.Context()))
			manifests, err := other.repo("a").Manifests(other.request())
			if err == nil {
				_, err = manifests.Get(other.request(), touched.Digest)
			}
			return err
		})
		report, err := collects.collector.Collect(t.Context())
		if must(t, err); !pulled {
			t.Fatalf("there was no time for a pull: %+v", report)
		}
		must(t, w.whole("a", touched.Digest))
		must(t, w.check(false))
	}
}

// Whoever does not know of runs, such as another registry's software, may still give a candidate its
// tag back before the sweep: a run looks again. That is no promise, as nothing holds them up later.
func TestUnawareDuringRun(t *testing.T) {
	w, collects, _ := prepared(t, true)
	collects.calls.count(nil)
	sweeping := false
	collects.collector.SetWait(func(_ context.Context, d time.Duration) error {
		if runs, _ := w.files.List(t.Context(), collection.RunsDir); len(runs) > 0 && !sweeping {
			record, err := w.files.GetContent(t.Context(), runs[0])
			must(t, err)
			if sweeping = strings.Contains(string(record), "sweeping"); sweeping {
				tag := paths.TagCurrent("a", "mine")
				must(t, w.files.PutContent(t.Context(), tag, []byte(candidate.Manifest.Digest)))
			}
		}
		w.pass(t, d)
		return nil
	})
	_, err := collects.collector.Collect(t.Context())
	if must(t, err); !sweeping {
		t.Error("there was no sweep")
	}
	must(t, w.whole("a", candidate.Manifest.Digest))
	must(t, w.check(false))
}
