package integration

import (
	"cmp"
	"io"
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
	writable          bool             // by PUT

	server *httptest.Server

	mu    sync.Mutex
	fault http.HandlerFunc // if not nil, what answers instead of the cache
	asked []string
}

// newBinaryCache makes an empty cache. It has no nix-cache-info either until something is added.
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

// cacheOf makes a cache of attributes of a package set. They are built in a store of their own.
func cacheOf(t testing.TB, packages string, attributes ...string) *binaryCache {
	t.Helper()
	c := newBinaryCache(t)
	c.build(t, packages, "", attributes...)
	return c
}

// build adds attributes of a package set. It builds them in a store of their own, on a machine that
// claims to have a lamp. The compression is xz if it is empty.
func (c *binaryCache) build(t testing.TB, packages, compression string, attributes ...string) {
	t.Helper()
	Needs(t, "nix-build")
	own := "local?root=" + filepath.Join(Dir(t), "store")
	// Without users to build as: Nix ends everything that runs as such a user, also builds of
	// another store.
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

// settings make a registry take packages from the cache and trust its key.
func (c *binaryCache) settings(more ...string) []string {
	return append(
		[]string{`nix.nix.substituters=["` + c.url + `"]`, `nix.nix.trustedpublickeys=["` + c.publicKey + `"]`},
		more...)
}

// storeless are settings by which a registry packs straight from the cache.
func (c *binaryCache) storeless(more ...string) []string {
	return c.settings(append([]string{"nix.build.storeless=true"}, more...)...)
}

// setFault makes something else answer instead of the cache; nil: the cache itself.
func (c *binaryCache) setFault(fault http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

// setDown makes the cache refuse every request.
func (c *binaryCache) setDown(down bool) {
	if !down {
		c.setFault(nil)
		return
	}
	c.setFault(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) })
}

// requests are the requested paths since the last call that match.
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
	if c.writable && r.Method == http.MethodPut {
		c.put(w, r)
		return
	}
	http.FileServer(http.Dir(c.dir)).ServeHTTP(w, r)
}

func (c *binaryCache) put(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	name := filepath.Join(c.dir, filepath.FromSlash(r.URL.Path))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o755)
	}
	if err == nil {
		err = os.WriteFile(name, content, 0o644)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
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
