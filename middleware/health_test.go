package middleware

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// A slowStorage answers Stat with an error, or not before it is let.
type slowStorage struct {
	driver.StorageDriver
	asked atomic.Int32

	mu    sync.Mutex
	err   error
	until chan struct{} // closed: it answers
}

func (s *slowStorage) set(err error, until chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.until = err, until
}

func (s *slowStorage) Stat(ctx context.Context, path string) (driver.FileInfo, error) {
	s.asked.Add(1)
	s.mu.Lock()
	err, until := s.err, s.until
	s.mu.Unlock()
	if until != nil {
		<-until
	}
	if err != nil {
		return nil, err
	}
	return s.StorageDriver.Stat(ctx, path)
}

// healthOf is what a registry with a stanza serves, before a site and an API.
func healthOf(t *testing.T, stanza string) (http.Handler, *Service) {
	t.Helper()
	var service *Service
	var config *configuration.Configuration
	site := site(t, stanza, func(c *configuration.Configuration, s *Service) { config, service = c, s })
	return Health(config, site), service
}

func opened(t *testing.T, service *Service, files driver.StorageDriver) {
	t.Helper()
	namespace, err := storage.NewRegistry(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	if err := service.open(namespace, files); err != nil {
		t.Fatal(err)
	}
}

func checkAnswer(t *testing.T, h http.Handler, target string, status int, texts ...string) {
	t.Helper()
	w := get(h, http.MethodGet, target)
	if w.Code != status {
		t.Errorf("%s: status %d, want %d: %s", target, w.Code, status, w.Body)
	}
	for _, text := range texts {
		if !strings.Contains(w.Body.String(), text) {
			t.Errorf("%s: %q lacks %q", target, w.Body, text)
		}
	}
}

// Stored images can be served while the storage answers, whatever else is wrong.
func TestReadiness(t *testing.T) {
	h, service := healthOf(t, "")
	checkAnswer(t, h, "/livez", 200, "ok")
	checkAnswer(t, h, "/readyz", 503, "starting")
	opened(t, service, inmemory.New())
	checkAnswer(t, h, "/readyz", 200, "storage: ok\npackage set: ok\nbuilds: ok\n")

	service.noteBuild(errors.New("open /nix/var/secret: no"))
	checkAnswer(t, h, "/readyz", 200, "builds: it can't be built at the moment, see the registry's log (since 2")
	if body := get(h, http.MethodGet, "/readyz").Body.String(); strings.Contains(body, "secret") {
		t.Errorf("everybody is told %q", body)
	}
	service.noteBuild(status.Errorf(status.Denied, "it does not compile"))
	checkAnswer(t, h, "/readyz", 200, "builds: it can't be built at the moment")
	service.packagesHealth.found(status.Errorf(status.Unavailable, "the remote is down"))
	checkAnswer(t, h, "/readyz", 200, "package set: the remote is down (since 2")
	service.noteBuild(nil)
	checkAnswer(t, h, "/readyz", 200, "package set: ok\nbuilds: ok\n")
}

func TestReadinessOfStorage(t *testing.T) {
	h, service := healthOf(t, "")
	files := &slowStorage{StorageDriver: inmemory.New(), err: errors.New("https://secret: 403")}
	opened(t, service, files)
	synctest.Test(t, func(t *testing.T) {
		checkAnswer(t, h, "/readyz", 503, "storage: fails\n")
		files.set(nil, nil)
		checkAnswer(t, h, "/readyz", 503, "storage: fails\n") // it was asked just now
		if asked := files.asked.Load(); asked != 1 {
			t.Errorf("the storage was asked %d times", asked)
		}
		time.Sleep(storageBelieved) // of the fake clock
		checkAnswer(t, h, "/readyz", 200, "storage: ok\n")

		time.Sleep(storageBelieved) // of the fake clock
		answer := make(chan struct{})
		files.set(nil, answer)
		asked := files.asked.Load()
		checkAnswer(t, h, "/readyz", 503, "storage: has not answered for 5s\n")
		checkAnswer(t, h, "/readyz", 503, "storage: has not answered for 10s\n")
		checkAnswer(t, h, "/livez", 200)
		if asked = files.asked.Load() - asked; asked != 1 {
			t.Errorf("a storage that hangs was asked %d times", asked)
		}
		close(answer)
		synctest.Wait()
		checkAnswer(t, h, "/readyz", 200, "storage: ok\n")
	})
}

// The paths are the registry's own on every site and before every prefix, and images of the same
// names are images.
func TestHealthPaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"livez", "readyz"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("the site's"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h, service := healthOf(t, "web: {dir: "+dir+"}\nnames: {prefix: livez}")
	opened(t, service, inmemory.New())
	checkAnswer(t, h, "/livez", 200, "ok")
	checkAnswer(t, h, "/readyz", 200, "storage: ok")
	for _, target := range []string{"/v2/livez/manifests/latest", "/v2/readyz/blobs/x"} {
		checkAnswer(t, h, target, 200, "api")
	}
	if w := get(h, http.MethodHead, "/readyz"); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
	if w := get(h, http.MethodPost, "/readyz"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
	if got := get(h, http.MethodGet, "/readyz").Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("the answer may be kept: %q", got)
	}

	stock := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) })
	w := httptest.NewRecorder()
	Health(&configuration.Configuration{}, stock).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/livez", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("without the stanza: %d", w.Code)
	}
}
