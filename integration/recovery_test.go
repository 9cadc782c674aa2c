package integration

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// What the builder keeps in the storage may be damaged or lost at any time: that costs work, never
// an image.
func TestDamagedRecords(t *testing.T) {
	replace := func(content string) func(*testing.T, string) {
		return func(t *testing.T, name string) { Write(t, name, content) }
	}
	halve := func(t *testing.T, name string) {
		info, err := os.Stat(name)
		if err == nil {
			err = os.Truncate(name, info.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, name string) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{"packages", "layers", "images", "tags", "layout"}
	notLayout := all[:4]
	r := StartRegistry(t)
	kept, forgotten := r.Pull(t, "hello"), r.Pull(t, "shell/tree")
	closure := Closure(t, DemoPackages(t), slices.Concat([]string{"tree"}, shellPackages, included)...)
	for _, test := range []struct {
		name   string
		kinds  []string
		damage func(t *testing.T, name string)
	}{
		{"everything lost", all, remove},
		{"everything cut in half", all, halve},
		{"cut in half", notLayout, halve},
		{"emptied", notLayout, replace("")},
		{"without what belongs in them", notLayout, replace("{}")},
		{"null", notLayout, replace("null")},
		{"of another shape", notLayout, replace("[1, 2]")},
		{
			"with what is no path and no digest", notLayout,
			replace(`[{"paths": ["/etc/passwd"], "digest": "../../x", "size": -1, "diffID": "y"}]`),
		},
		{"packages lost", []string{"packages"}, remove},
		{"layers lost", []string{"layers"}, remove},
		{"images lost", []string{"images"}, remove},
		{"all but the layout lost", notLayout, remove},
		{"layout cut in half", []string{"layout"}, halve},
		{"layout of another shape", []string{"layout"}, replace("{}")},
		{"layout lost", []string{"layout"}, remove},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.Stop()
			damaged := 0
			for _, kind := range test.kinds {
				for _, name := range files(t, filepath.Join(r.storage(), "nix", "v1", kind)) {
					test.damage(t, name)
					damaged++
				}
			}
			if damaged == 0 {
				t.Fatal("there are no records")
			}
			r.forget(t, forgotten.Name)
			r.Start()
			again := r.Pull(t, forgotten.Name)
			r.CheckWhole(t, again)
			if again.Digest != forgotten.Digest {
				// The same store paths are cut into layers as they were, if the layout is there or
				// the images' records are.
				if !slices.Equal(test.kinds, all) {
					t.Errorf("%s became %s, was %s", forgotten.Name, again.Digest, forgotten.Digest)
				}
				r.Verify(t, again, closure)
				forgotten = again
			}
			if served := r.Pull(t, kept.Name); served.Digest != kept.Digest {
				t.Errorf("%s became %s, was %s", kept.Name, served.Digest, kept.Digest)
			}
		})
	}
}

// Layers that the storage has lost are packed again, also while the registry remembers them.
func TestLostBlobs(t *testing.T) {
	r := StartRegistry(t)
	image := r.Pull(t, "hello")
	for _, test := range []struct {
		name    string
		blobs   []v1.Descriptor
		restart bool
	}{
		{"the first layer", image.Layers[:1], false},
		{"the last layer", image.Layers[len(image.Layers)-1:], false},
		{"the config", []v1.Descriptor{image.Config}, false},
		{"everything", append([]v1.Descriptor{image.Config}, image.Layers...), false},
		{"everything, before a start", append([]v1.Descriptor{image.Config}, image.Layers...), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.restart {
				r.Stop()
				defer r.Start()
			}
			for _, blob := range test.blobs {
				r.loseBlob(t, blob.Digest)
			}
			r.forget(t, image.Name)
			if test.restart {
				r.Start()
			}
			again := r.Pull(t, image.Name)
			r.CheckWhole(t, again)
			if again.Digest != image.Digest {
				t.Errorf("it became %s, was %s", again.Digest, image.Digest)
			}
		})
	}
}

// Where the storage takes no more, clients are told to come back, nothing is left of the attempt,
// and it works when it does again.
func TestStorageFull(t *testing.T) {
	needs.Root(t, "to mount a small file system")
	r := StartRegistry(t)
	storage := r.storage()
	if err := os.MkdirAll(storage, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(flags uintptr, options string) {
		t.Helper()
		if err := syscall.Mount("tmpfs", storage, "tmpfs", flags, options); err != nil {
			t.Fatalf("mounting: %v", err)
		}
	}
	mount(0, "size=1m")
	t.Cleanup(func() {
		r.Stop()
		if err := syscall.Unmount(storage, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	refused := func(name string) {
		t.Helper()
		status, header, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil {
			t.Fatal(err)
		}
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" ||
			strings.Contains(string(body), storage) {
			t.Errorf("the answer is %d, Retry-After %q: %s", status, header.Get("Retry-After"), body)
		}
		if left := r.uploads(t); len(left) > 0 {
			t.Errorf("unfinished uploads are left: %q", left)
		}
	}
	refused("hello")
	mount(syscall.MS_REMOUNT, "size=512m")
	r.CheckWhole(t, r.Pull(t, "hello"))

	mount(syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=512m")
	refused("hello/tree")
	r.CheckWhole(t, r.Pull(t, "hello")) // what is there is still served
	mount(syscall.MS_REMOUNT, "size=512m")
	r.CheckWhole(t, r.Pull(t, "hello/tree"))
}

// storage is the directory of the registry's file system driver.
func (r *Registry) storage() string { return filepath.Join(r.Dir, "storage") }

// uploads are the files of blobs that have not been committed.
func (r *Registry) uploads(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(
		files(t, r.storage()), func(name string) bool { return !strings.Contains(name, "/_uploads/") },
	)
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			names = append(names, name)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// forget removes a repository from the storage: its next pull is a build. The blobs stay.
func (r *Registry) forget(t *testing.T, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(r.storage(), "docker", "registry", "v2", "repositories", name)); err != nil {
		t.Fatal(err)
	}
}

// loseBlob removes a blob's content from the storage.
func (r *Registry) loseBlob(t *testing.T, blob digest.Digest) {
	t.Helper()
	hex := blob.Encoded()
	err := os.Remove(filepath.Join(r.storage(), "docker", "registry", "v2", "blobs", "sha256", hex[:2], hex, "data"))
	if err != nil {
		t.Fatal(err)
	}
}
