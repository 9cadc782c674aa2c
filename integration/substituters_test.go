package integration

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestSubstituters takes packages from a binary cache instead of building them, if it is to be
// trusted and answers.
func TestSubstituters(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		key     func(*binaryCache) string
		down    bool
		fetches bool
		log     string
	}{
		{
			name: "signed by a trusted key", key: func(c *binaryCache) string { return c.publicKey },
			fetches: true, log: "nix: building 0 derivations and downloading 1 store paths",
		},
		{name: "signed by another key", key: func(*binaryCache) string {
			return "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
		}, log: "nix: building what can't be downloaded"},
		{
			name: "down", key: func(c *binaryCache) string { return c.publicKey }, down: true,
			log: "nix: building 1 derivations",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t)
			cache := cacheOf(t, packages, "quick")
			cache.setDown(test.down)
			r := StartRegistry(
				t,
				cache.settings("nix.packages.path="+packages, `nix.nix.trustedpublickeys=["`+test.key(cache)+`"]`)...)
			r.CheckWhole(t, r.Pull(t, "quick"))
			if got := len(cache.requests("^/nar/")) > 0; got != test.fetches {
				t.Errorf("something was fetched from the cache: %t, want %t", got, test.fetches)
			}
			if !strings.Contains(r.Log(), test.log) {
				t.Errorf("the log lacks %q", test.log)
			}
		})
	}
}

// TestPackingOverlapsDownloads has a cache that does not give out the last path before the layer of
// another one is stored.
func TestPackingOverlapsDownloads(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	cache := cacheOf(t, packages, "quick", "bulky")
	r := NewRegistry(t, cache.settings("nix.packages.path="+packages)...)
	packed := make(chan bool, 1)
	cache.beforeNAR = func(size int64) {
		if size < 1e6 {
			return
		}
		for range 600 {
			if blobs, _ := filepath.Glob(filepath.Join(r.Dir, "storage/docker/registry/v2/blobs/sha256/*/*/data")); len(
				blobs,
			) > 0 {
				packed <- true
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		packed <- false
	}
	r.Start()
	image := r.Pull(t, "quick/bulky")
	if !<-packed {
		t.Error("nothing was packed before all was downloaded")
	}
	r.CheckWhole(t, image)
	// The same image as of a store that has it all.
	other := StartRegistry(t, "nix.packages.path="+packages)
	if again := other.Pull(t, "quick/bulky"); again.Digest != image.Digest {
		t.Errorf("the image is %s when it is downloaded, and %s when it is there", image.Digest, again.Digest)
	}
}

// TestCachedPackages pulls one image after the other of packages that a binary cache has, as most
// users of nixpkgs do. From the second image on, the store or the registry already has what every
// image includes and what programs share. Each image is there at the first pull and nothing is
// built. The images are the same whatever the store had, and without a store.
func TestCachedPackages(t *testing.T) {
	t.Parallel()
	attributes := []string{"certs", "services", "quick", "reader", "writer", "editor", "bulky"}
	images := []string{
		"quick",               // nothing is there
		"reader",              // what is included is there
		"writer",              // and what it refers to
		"quick/reader/bulky",  // and some of the packages, which nothing refers to
		"editor/certs/writer", // that are also included
		"reader/writer",       // all is there
		"library/quick",       // as what others refer to
	}
	include := `nix.include=["certs", "services", "no-such-package"]`
	for _, test := range []struct {
		name     string
		settings []string
		noStore  bool
		pull     func(t *testing.T, r *Registry)
	}{
		{name: "one after the other", pull: func(t *testing.T, r *Registry) {}},
		{name: "at once", pull: pullAll(images)},
		{name: "before it serves", pull: func(t *testing.T, r *Registry) {
			r.Stop()
			stdout, stderr, err := r.nix(append([]string{"build"}, images...)...)
			if err != nil || strings.Count(stdout, " built\n") != len(images)-1 {
				t.Errorf("%v\n%s%s", err, stdout, stderr)
			}
			r.Start()
		}},
		{
			name: "prebuilt", settings: []string{`nix.prebuild=["` + strings.Join(images, `", "`) + `"]`},
			pull: func(t *testing.T, r *Registry) { r.AwaitLog(logBuilt, len(images)) },
		},
		{
			name: "without a store", settings: []string{"nix.build.storeless=true"}, noStore: true,
			pull: func(t *testing.T, r *Registry) {},
		},
		{
			name: "at once without a store", settings: []string{"nix.build.storeless=true"}, noStore: true,
			pull: pullAll(images),
		},
		{
			name: "storeless with a store", settings: []string{"nix.build.storeless=true"},
			pull: func(t *testing.T, r *Registry) {},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t) // which no store has
			cache := cacheOf(t, packages, attributes...)
			settings := append(cache.settings("nix.packages.path="+packages, include), test.settings...)
			r := NewRegistry(t, settings...)
			if test.noStore {
				withoutStore(t, r)
			}
			r.Start()
			test.pull(t, r)
			digests := make(map[string]digest.Digest)
			for _, name := range images {
				image := r.Pull(t, name)
				r.CheckWhole(t, image)
				digests[name] = image.Digest
			}
			log := strings.ReplaceAll(r.Log(), `level=warning msg="nix: Nix `, "") // is older than it might be
			for _, unwanted := range []string{"level=warning", "level=error", logBuilding} {
				if strings.Contains(log, unwanted) {
					t.Errorf("the log has %q", unwanted)
				}
			}
			if test.noStore {
				return
			}
			// Another registry, over a store that has it all, or, storeless, as much of it as
			// before.
			again := StartRegistry(t, settings...)
			for _, name := range images {
				if image := again.Pull(t, name); image.Digest != digests[name] &&
					test.name != "at once" { // layers depend on what came first
					t.Errorf("%s is %s, and %s over a full store", name, digests[name], image.Digest)
				}
			}
		})
	}
}

// pullAll has several clients pull all images at the same time.
func pullAll(images []string) func(t *testing.T, r *Registry) {
	return func(t *testing.T, r *Registry) {
		var clients sync.WaitGroup
		for _, name := range images {
			for range 3 {
				clients.Go(func() {
					latest := "/v2/" + name + "/manifests/latest"
					status, _, body, err := r.Get(t.Context(), latest, v1.MediaTypeImageManifest)
					if err != nil || status != http.StatusOK {
						t.Errorf("%s: %d %s %v", name, status, body, err)
					}
				})
			}
		}
		clients.Wait()
	}
}
