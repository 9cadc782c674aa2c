package middleware

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
)

// site is what a registry with a stanza serves; its API answers "api".
func site(t *testing.T, stanza string, change func(*configuration.Configuration, *Service)) http.Handler {
	t.Helper()
	c := config(t, "packages: {path: "+packageSet(t)+"}\n"+stanza)
	service, err := Setup(c)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c, service)
	}
	return Site(c, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("api")) }))
}

func get(h http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	request := httptest.NewRequest(method, "http://registry.example"+target, nil)
	h.ServeHTTP(w, request)
	return w
}

func TestSiteFiles(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	for name, content := range map[string]string{
		filepath.Join(dir, "index.html"):     "<p>front",
		filepath.Join(dir, "sub/index.html"): "<p>sub",
		filepath.Join(dir, "style.css"):      "p {}",
		filepath.Join(dir, ".env"):           "secret",
		filepath.Join(dir, ".git/config"):    "secret",
		filepath.Join(dir, "empty/x"):        "x",
		outside:                              "secret",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	h := site(t, "web: {dir: "+dir+"}", nil)
	for _, test := range []struct {
		method, target string
		status         int
		body           string
	}{
		{"GET", "/", 200, "<p>front"},
		{"GET", "/style.css", 200, "p {}"},
		{"HEAD", "/style.css", 200, ""},
		{"GET", "/sub/", 200, "<p>sub"},
		{"GET", "/sub", 301, ""},
		{"GET", "/v2", 200, "api"},
		{"GET", "/v2/", 200, "api"},
		{"PUT", "/v2/x/blobs/uploads/", 200, "api"},
		{"GET", "/v2x", 404, ""},
		{"GET", "/empty/", 404, ""},
		{"GET", "/.env", 404, ""},
		{"GET", "/.git/config", 404, ""},
		{"GET", "/link", 404, ""},
		{"GET", "/nosuch", 404, ""},
		{"GET", "/%2e%2e/%2e%2e/etc/passwd", 404, ""},
		{"GET", "/sub/..%2f..%2f..%2fetc%2fpasswd", 404, ""},
		{"POST", "/", 405, ""},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			w := get(h, test.method, test.target)
			body := w.Body.String()
			if w.Code != test.status || test.status == 200 && body != test.body || strings.Contains(body, "secret") ||
				strings.Contains(body, "root:") {
				t.Errorf("%d %q, want %d %q", w.Code, body, test.status, test.body)
			}
			if test.status == 200 && test.body != "api" &&
				(w.Header().Get("Cache-Control") == "" || w.Header().Get("Last-Modified") == "") {
				t.Errorf("headers %v do not say for how long it may be kept", w.Header())
			}
		})
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if w := get(h, "GET", "/"); w.Code != 404 {
		t.Errorf("once the directory is gone, / is answered with %d", w.Code)
	}
	if w := get(h, "GET", "/v2/"); w.Body.String() != "api" {
		t.Errorf("once the directory is gone, the API answers %d", w.Code)
	}
}

// Who wants a manifest and gets lost gets no page instead, and no cache keeps the answer.
func TestSiteWithoutManifests(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("<p>front"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]http.Handler{
		"files": site(t, "web: {dir: "+dir+"}", nil), "the page": site(t, "", nil),
	} {
		for _, test := range []struct {
			accept, target string
			status         int
		}{
			{listType + ", */*", "/", http.StatusNotAcceptable},
			{dockerType, "/index.html", http.StatusNotAcceptable},
			{dockerType, "/v2/", http.StatusOK},
			{"*/*", "/", http.StatusOK},
			{"text/html, */*", "/", http.StatusOK},
			{"", "/", http.StatusOK},
		} {
			w := httptest.NewRecorder()
			request := httptest.NewRequest(http.MethodGet, test.target, nil)
			request.Header.Set("Accept", test.accept)
			h.ServeHTTP(w, request)
			if w.Code != test.status {
				t.Errorf("%s: %s for %q is answered with %d, want %d", name, test.target, test.accept, w.Code, test.status)
			}
			if w.Body.String() != "api" && w.Header().Get("Vary") != "Accept" ||
				w.Code != http.StatusOK && w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %s for %q has headers %v", name, test.target, test.accept, w.Header())
			}
		}
	}
}

func TestSitePage(t *testing.T) {
	built := func(c *configuration.Configuration, s *Service) {
		s.recent.add("git:latest", time.Now(), "")
		s.recent.add("evil:latest", time.Now(), "<script>alert(1)</script>")
	}
	for _, test := range []struct {
		name, stanza string
		change       func(*configuration.Configuration, *Service)
		has, hasNot  []string
	}{
		{
			"at first", "", nil,
			[]string{"docker run --rm -ti registry.example/shell/git/htop", "Nothing since"},
			[]string{"<table>"},
		},
		{
			"with builds", "", built, []string{"git:latest", "evil:latest", "&lt;script&gt;"},
			[]string{"<script>", "Nothing since"},
		},
		{
			"with a prefix and another host", "names: {prefix: nix}",
			func(c *configuration.Configuration, _ *Service) { c.HTTP.Host = "https://hub.example" },
			[]string{"hub.example/nix/shell/git/htop"}, nil,
		},
		{"not for everybody", "", func(c *configuration.Configuration, s *Service) {
			built(c, s)
			c.Auth = configuration.Auth{"htpasswd": {"realm": "x"}}
		}, []string{"docker run"}, []string{"git:latest", "Built lately"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := get(site(t, test.stanza, test.change), "GET", "/")
			for _, text := range test.has {
				if !strings.Contains(w.Body.String(), text) {
					t.Errorf("the page lacks %q:\n%s", text, w.Body)
				}
			}
			for _, text := range test.hasNot {
				if strings.Contains(w.Body.String(), text) {
					t.Errorf("the page has %q:\n%s", text, w.Body)
				}
			}
		})
	}
	if w := get(site(t, "", nil), "GET", "/favicon.ico"); w.Code != 404 {
		t.Errorf("/favicon.ico is answered with %d", w.Code)
	}
	without, err := configuration.Parse(strings.NewReader("version: 0.1\nstorage: {inmemory: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("api")) })
	if w := get(Site(without, api), "GET", "/"); w.Body.String() != "api" {
		t.Errorf("a registry without the middleware answers / with %s", w.Body)
	}
}
