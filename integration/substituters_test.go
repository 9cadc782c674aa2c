package integration

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A binaryCache has the outputs of a fresh package set, which no other store has, signed with a key.
type binaryCache struct {
	packages, publicKey string
	url                 string
	down                atomic.Bool
	beforeNAR           func(size int64) // if not nil, called before an archive is sent
	narinfos, nars      atomic.Int32
}

func newBinaryCache(t *testing.T, attributes ...string) *binaryCache {
	t.Helper()
	Needs(t, "nix-build", "nix-store", "nix")
	c := &binaryCache{packages: FreshPackages(t)}
	dir := Dir(t)
	secret, public := filepath.Join(dir, "secret"), filepath.Join(dir, "public")
	Exec(t, "nix-store", "--generate-binary-cache-key", "cache.example.org-1", secret, public)
	key, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	c.publicKey = strings.TrimSpace(string(key))

	// Built in a store of its own, so that the machine's has nothing of it.
	own := "local?root=" + filepath.Join(dir, "store")
	// It has no users to build as: Nix ends all that runs as such a user, also what another store builds.
	build := []string{"--no-out-link", "--option", "substituters", "", "--option", "build-users-group", "", "--store", own, c.packages}
	for _, attribute := range attributes {
		build = append(build, "-A", attribute)
	}
	paths := strings.Fields(Exec(t, "nix-build", build...))
	copying := []string{"--extra-experimental-features", "nix-command", "copy", "--from", own, "--to", "file://" + filepath.Join(dir, "cache") + "?secret-key=" + secret}
	Exec(t, "nix", append(copying, paths...)...)

	files := http.FileServer(http.Dir(filepath.Join(dir, "cache")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case c.down.Load():
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		case strings.HasSuffix(r.URL.Path, ".narinfo"):
			c.narinfos.Add(1)
		case strings.HasPrefix(r.URL.Path, "/nar/"):
			c.nars.Add(1)
			if info, err := os.Stat(filepath.Join(dir, "cache", r.URL.Path)); err == nil && c.beforeNAR != nil {
				c.beforeNAR(info.Size())
			}
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// TestSubstituters takes packages from a binary cache instead of building them, if it is to be trusted and answers.
func TestSubstituters(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		key     func(*binaryCache) string
		down    bool
		fetches bool
		log     string
	}{
		{name: "signed by a trusted key", key: func(c *binaryCache) string { return c.publicKey }, fetches: true, log: "nix: building 0 derivations and downloading 1 store paths"},
		{name: "signed by another key", key: func(*binaryCache) string {
			return "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
		}, log: "nix: building what can't be downloaded"},
		{name: "down", key: func(c *binaryCache) string { return c.publicKey }, down: true, log: "nix: building 1 derivations"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cache := newBinaryCache(t, "quick")
			cache.down.Store(test.down)
			r := StartRegistry(t, "nix.packages.path="+cache.packages, `nix.nix.substituters=["`+cache.url+`"]`, `nix.nix.trustedpublickeys=["`+test.key(cache)+`"]`)
			r.CheckWhole(t, r.Pull(t, "quick"))
			if got := cache.nars.Load() > 0; got != test.fetches {
				t.Errorf("something was fetched from the cache: %t, want %t", got, test.fetches)
			}
			if !strings.Contains(r.Log(), test.log) {
				t.Errorf("the log lacks %q", test.log)
			}
		})
	}
}

// TestPackingOverlapsDownloads has a cache that does not give out the last path before the layer of another one is stored.
func TestPackingOverlapsDownloads(t *testing.T) {
	t.Parallel()
	cache := newBinaryCache(t, "quick", "bulky")
	r := NewRegistry(t, "nix.packages.path="+cache.packages, `nix.nix.substituters=["`+cache.url+`"]`, `nix.nix.trustedpublickeys=["`+cache.publicKey+`"]`)
	packed := make(chan bool, 1)
	cache.beforeNAR = func(size int64) {
		if size < 1e6 {
			return
		}
		for range 600 {
			if blobs, _ := filepath.Glob(filepath.Join(r.Dir, "storage/docker/registry/v2/blobs/sha256/*/*/data")); len(blobs) > 0 {
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
	other := StartRegistry(t, "nix.packages.path="+cache.packages)
	if again := other.Pull(t, "quick/bulky"); again.Digest != image.Digest {
		t.Errorf("the image is %s when it is downloaded, and %s when it is there", image.Digest, again.Digest)
	}
}
