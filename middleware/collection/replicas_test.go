package collection_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Three registries build, push, pull and delete as they like, with the same layers, while blobs are
// collected again and again, also what is new. Whatever was told to be stored is whole as long as it
// has its tag.
func TestReplicas(t *testing.T) {
	const deedsEach = 80
	w := newWorld()
	collects := w.process(t, true)
	collects.collector.SetYoungest(0)
	var replicas []*process
	for n := range 3 {
		replicas = append(replicas, w.process(t, n > 0))
	}
	var working sync.WaitGroup
	var stored, refused atomic.Int64
	for n, p := range replicas {
		random := rand.New(rand.NewPCG(17, uint64(n)))
		working.Go(func() {
			tags := make(map[string]digest.Digest) // of repo:tag, this replica's own
			for i := range deedsEach {
				layers := []string{fmt.Sprint("layer ", random.IntN(6)), fmt.Sprint("layer ", random.IntN(6))}
				img := imageOf(fmt.Sprint(n, " ", random.IntN(20)), layers...)
				repo, tag := fmt.Sprint("repo", random.IntN(3)), fmt.Sprintf("t%d-%d", n, i)
				var err error
				if random.IntN(2) == 0 {
					err = p.build(repo, tag, img, layers...)
				} else {
					err = p.push(repo, tag, img, layers...)
				}
				if err != nil {
					refused.Add(1)
				} else {
					stored.Add(1)
					tags[repo+":"+tag] = img.Manifest.Digest
				}
				for name, manifest := range tags {
					var repo, tag string
					if _, err := fmt.Sscanf(name, "%5s:%s", &repo, &tag); err != nil {
						t.Error(err)
					}
					if err := w.whole(repo, manifest); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if random.IntN(4) == 0 {
						p.untag(repo, tag)
						delete(tags, name)
					}
				}
				time.Sleep(time.Millisecond) // so that runs and deeds take turns
			}
			for name := range tags {
				p.untag(name[:5], name[6:])
			}
		})
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		working.Wait()
	}()
	runs, bytes := 0, int64(0)
	for last := false; !last; runs++ {
		select {
		case <-over:
			last = true
		default:
		}
		report, err := collects.collector.Collect(t.Context())
		must(t, err)
		bytes += report.Bytes
	}
	t.Logf("%d runs deleted %d bytes; %d images were stored, %d refused", runs, bytes, stored.Load(), refused.Load())
	if bytes == 0 || stored.Load() == 0 {
		t.Error("nothing was deleted, or nothing stored")
	}
	must(t, w.check(true))
}
