package integration

import (
	"cmp"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A binaryCache serves store paths over HTTP, on loopback, signed by a key of its own.
type binaryCache struct {
	dir, url          string
	secret, publicKey string
	beforeNAR         func(size int64) // if not nil, called before an archive is sent

	server *httptest.Server

	mu    sync.Mutex
	fault http.HandlerFunc // if not nil, what answers instead of the cache
	asked []string
}

// newBinaryCache is an empty cache, which has no nix-cache-info either before something is added.
func newBinaryCache(t testing.TB) *binaryCache {
	t.Helper()
	Needs(t, "nix", "nix-store")
	dir := Dir(t)
	c := &binaryCache{dir: filepath.Join(dir, "cache"), secret: filepath.Join(dir, "secret")}
	public := filepath.Join(dir, "public")
	Exec(t, "nix-store", "--generate-binary-cache-key", "cache.example.org-1", c.secret, public)
	key, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	c.publicKey = strings.TrimSpace(string(key))
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	c.url = c.server.URL
	return c
}

// cacheOf has attributes of a package set, which were built where the machine's store has nothing
// of it.
func cacheOf(t testing.TB, packages string, attributes ...string) *binaryCache {
	t.Helper()
	c := newBinaryCache(t)
	c.build(t, packages, "", attributes...)
	return c
}

// build adds attributes of a package set, which are built in a store of their own, by a machine
// that says that it has a lamp. Empty, the compression is xz.
func (c *binaryCache) build(t testing.TB, packages, compression string, attributes ...string) {
	t.Helper()
	Needs(t, "nix-build")
	own := "local?root=" + filepath.Join(Dir(t), "store")
	// It has no users to build as: Nix ends all that runs as such a user, also what another store
	// builds.
	build := []string{
		"--no-out-link", "--option", "substituters", "", "--option", "build-users-group", "", "--option",
		"system-features", "lamp",
	}
	build = append(build, "--store", own, packages)
	for _, attribute := range attributes {
		build = append(build, "-A", attribute)
	}
	var paths []store.Path
	for path := range strings.FieldsSeq(Exec(t, "nix-build", build...)) {
		paths = append(paths, store.Path(path))
	}
	c.add(t, own, cmp.Or(compression, "xz"), paths...)
}

// add copies paths, with all that they refer to, from a store; empty: the machine's.
func (c *binaryCache) add(t testing.TB, from, compression string, paths ...store.Path) {
	t.Helper()
	args := []string{
		"--extra-experimental-features", "nix-command", "copy", "--to",
		"file://" + c.dir + "?compression=" + compression + "&secret-key=" + c.secret,
	}
	if from != "" {
		args = append(args, "--from", from)
	}
	for _, p := range paths {
		args = append(args, string(p))
	}
	Exec(t, "nix", args...)
}

// settings are those of a registry that takes packages from the cache and believes its key.
func (c *binaryCache) settings(more ...string) []string {
	return append(
		[]string{`nix.nix.substituters=["` + c.url + `"]`, `nix.nix.trustedpublickeys=["` + c.publicKey + `"]`},
		more...)
}

// storeless are the settings of a registry that packs straight from the cache.
func (c *binaryCache) storeless(more ...string) []string {
	return c.settings(append([]string{"nix.build.storeless=true"}, more...)...)
}

// setFault has something else answer instead of the cache; nil: nothing does.
func (c *binaryCache) setFault(fault http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

// setDown has the cache refuse all that is asked.
func (c *binaryCache) setDown(down bool) {
	if !down {
		c.setFault(nil)
		return
	}
	c.setFault(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) })
}

// requests are the paths that were asked for since the last call, and that match.
func (c *binaryCache) requests(pattern string) (matching []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, path := range c.asked {
		if regexp.MustCompile(pattern).MatchString(path) {
			matching = append(matching, path)
		}
	}
	c.asked = nil
	return matching
}

// ServeHTTP implements http.Handler.
func (c *binaryCache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	fault := c.fault
	c.asked = append(c.asked, r.URL.Path)
	c.mu.Unlock()
	if fault != nil {
		fault(w, r)
		return
	}
	if c.beforeNAR != nil && strings.HasPrefix(r.URL.Path, "/nar/") {
		if info, err := os.Stat(filepath.Join(c.dir, r.URL.Path)); err == nil {
			c.beforeNAR(info.Size())
		}
	}
	http.FileServer(http.Dir(c.dir)).ServeHTTP(w, r)
}

// narinfo is the file about a path.
func (c *binaryCache) narinfo(p store.Path) string {
	hash, _, _ := strings.Cut(p.Base(), "-")
	return filepath.Join(c.dir, hash+".narinfo")
}

// archive is the file with a path's content.
func (c *binaryCache) archive(t testing.TB, p store.Path) string {
	t.Helper()
	text, err := os.ReadFile(c.narinfo(p))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(c.dir, string(regexp.MustCompile(`(?m)^URL: (.*)$`).FindSubmatch(text)[1]))
}

func (c *binaryCache) edit(t testing.TB, name string, change func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	Write(t, name, string(change(content)))
}
