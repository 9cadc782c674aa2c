package imagestore

import (
	"context"
	"path"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
)

// A steppingDriver calls before with the number of each call, one at a time.
type steppingDriver struct {
	driver.StorageDriver
	mu     sync.Mutex
	calls  int
	before func(call int)
}

func (d *steppingDriver) step() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if d.before != nil {
		d.before(d.calls)
	}
}

func (d *steppingDriver) GetContent(ctx context.Context, path string) ([]byte, error) {
	d.step()
	return d.StorageDriver.GetContent(ctx, path)
}

func (d *steppingDriver) PutContent(ctx context.Context, path string, content []byte) error {
	d.step()
	return d.StorageDriver.PutContent(ctx, path, content)
}

func (d *steppingDriver) Stat(ctx context.Context, path string) (driver.FileInfo, error) {
	d.step()
	return d.StorageDriver.Stat(ctx, path)
}

func (d *steppingDriver) List(ctx context.Context, path string) ([]string, error) {
	d.step()
	return d.StorageDriver.List(ctx, path)
}

// A push under a tag that is being committed keeps it, wherever its two steps fall. They are made
// right before two calls of the commit, or after the last, for each two of them.
func TestPushDuringCommit(t *testing.T) {
	calls := pushDuringCommit(t, 0, 0)
	if calls < 10 {
		t.Fatalf("a commit makes %d calls", calls)
	}
	for first := 1; first <= calls+1; first++ {
		for second := first; second <= calls+1; second++ {
			pushDuringCommit(t, first, second)
		}
	}
}

// pushDuringCommit pushes before the calls of those numbers, and checks what became of it. Zero: not
// at all. It returns how many calls there were.
func pushDuringCommit(t *testing.T, first, second int) (calls int) {
	t.Helper()
	files := &steppingDriver{StorageDriver: inmemory.New()}
	s := storingIn(t, files, Options{})
	tags := []Tag{{Name: "latest"}, {Name: "r1"}}
	if _, err := s.commit(t, tags, "the image before"); err != nil {
		t.Fatal(err)
	}

	pushed := s.image(theLayer, "pushed").Manifest
	manifests, err := s.repo.Manifests(t.Context(), storage.SkipLayerVerification())
	if err != nil {
		t.Fatal(err)
	}
	if err := putConfig(t.Context(), s.repo, pushed); err != nil {
		t.Fatal(err)
	}
	if err := putManifest(t.Context(), manifests, pushed); err != nil {
		t.Fatal(err)
	}
	write := func(file string) {
		name := path.Join("/docker/registry/v2/repositories/image/_manifests/tags/latest", file, "link")
		if err := files.StorageDriver.PutContent(t.Context(), name, []byte(pushed.Digest)); err != nil {
			t.Error(err)
		}
	}
	index, current := path.Join("index/sha256", pushed.Digest.Encoded()), "current"
	into := s.upload(t)
	defer into.Close()
	files.calls = 0
	files.before = func(call int) {
		if call == first {
			write(index)
		}
		if call == second {
			write(current)
		}
	}
	img := s.image(theLayer, "the image now")
	if err := s.Commit(t.Context(), into, img, tags); err != nil {
		t.Fatal(err)
	}
	files.mu.Lock()
	files.before, calls = nil, files.calls
	files.mu.Unlock()
	if first > calls {
		write(index)
	}
	if second > calls {
		write(current)
	}
	want := Image{Digest: img.Manifest.Digest}
	if first > 0 {
		want = Image{Digest: pushed.Digest, Pushed: true}
	}
	if got := s.lookUp(t, "latest"); got.Digest != want.Digest || got.Pushed != want.Pushed {
		t.Errorf("pushed before calls %d and %d of %d: latest is %+v", first, second, calls, got)
	}
	return calls
}
