package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A call is one request to an object store.
type call struct {
	kind   string // such as read, write, stat, list
	object string // or the prefix of a list
	began  time.Time
	ended  time.Time
}

type calls []call

// A traffic is an object store that notes what it is asked. It is safe for concurrent use.
type traffic struct {
	store    http.Handler
	classify func(*http.Request) (kind, object string)

	mu    sync.Mutex
	calls calls
	pause time.Duration
}

func (s *traffic) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	c := call{began: time.Now()}
	c.kind, c.object = s.classify(request)
	s.mu.Lock()
	pause := s.pause
	s.mu.Unlock()
	time.Sleep(pause)
	s.store.ServeHTTP(w, request)
	c.ended = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
}

// slow makes every call take that long at least, so that it shows which calls wait for each other.
func (s *traffic) slow(pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause = pause
}

// take returns the calls since it was last called.
func (s *traffic) take() calls {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.calls
	s.calls = nil
	return taken
}

// about are the calls whose object has one of some texts in its name.
func (c calls) about(parts ...string) calls {
	return slices.DeleteFunc(slices.Clone(c), func(one call) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(one.object, part) })
	})
}

// of are the calls of a kind.
func (c calls) of(kind string) calls {
	return slices.DeleteFunc(slices.Clone(c), func(one call) bool { return one.kind != kind })
}

// steps are how many of the calls did not overlap: those that waited for each other.
func (c calls) steps() (steps int) {
	var end time.Time
	for _, one := range slices.SortedFunc(slices.Values(c), func(a, b call) int { return a.ended.Compare(b.ended) }) {
		if one.began.After(end) {
			steps, end = steps+1, one.ended
		}
	}
	return steps
}

// String is as "7 calls, 5 in sequence: 3 read, 4 stat".
func (c calls) String() string {
	kinds := make(map[string]int)
	for _, one := range c {
		kinds[one.kind]++
	}
	var counts []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		counts = append(counts, fmt.Sprintf("%d %s", kinds[kind], kind))
	}
	return fmt.Sprintf("%d calls, %d in sequence: %s", len(c), c.steps(), strings.Join(counts, ", "))
}

// list are the calls a line each, for a test that fails.
func (c calls) list() string {
	var b strings.Builder
	for _, one := range c {
		fmt.Fprintf(&b, "%s %s\n", one.kind, one.object)
	}
	return b.String()
}

// storageOn is the setting of a registry's storage. Uploads that clients gave up are not looked
// for: that begins at a time which is left to chance, and would be among the calls of a test.
func storageOn(t *testing.T, driver string, parameters map[string]any) string {
	t.Helper()
	storage, err := json.Marshal(map[string]any{
		driver: parameters, "delete": map[string]any{"enabled": true},
		"maintenance": map[string]any{"uploadpurging": map[string]any{"enabled": false}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return "storage=" + string(storage)
}

// checkShared has one registry build an image, and another on the same storage an image of the same
// packages under a name of its own, which chooses the platform: it finds all layers there.
func checkShared(t *testing.T, store *traffic, first, second *Registry) {
	t.Helper()
	built := first.Pull(t, "hello/tree")
	store.take()
	if served := second.Pull(t, "hello/tree"); served.Digest != built.Digest {
		t.Errorf("the second registry serves %s, the first built %s", served.Digest, built.Digest)
	}
	if strings.Contains(second.Log(), logBuilt) {
		t.Error("the second registry built what the first had built")
	}
	store.take()
	again := second.Pull(t, "amd64/hello/tree")
	sameDigest := func(a, b v1.Descriptor) bool { return a.Digest == b.Digest }
	if !slices.EqualFunc(again.Layers, built.Layers, sameDigest) {
		t.Errorf("the second registry has the layers %v, the first %v", again.Layers, built.Layers)
	}
	if !strings.Contains(second.Log(), logBuilt) {
		t.Error("the second registry did not build")
	}
	asked := store.take()
	for _, layer := range built.Layers {
		if len(asked.about(layer.Digest.Encoded())) == 0 {
			t.Errorf("layer %s was not mounted", layer.Digest)
		}
	}
	if packed := asked.about("/_uploads/", "nix/v1/layers/"); len(packed.of("write"))+len(packed.of("copy")) > 0 {
		t.Errorf("the second registry packed layers:\n%s", packed.list())
	}
}

// blobObject is where the registry keeps a blob, without the slash in front.
func blobObject(blob digest.Digest) string {
	hex := blob.Encoded()
	return "docker/registry/v2/blobs/sha256/" + hex[:2] + "/" + hex + "/data"
}
