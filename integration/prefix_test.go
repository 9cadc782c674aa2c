package integration

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A proxy is a reverse proxy before a registry that starts later.
type proxy struct {
	*httptest.Server
	to *url.URL
}

// newProxy changes requests before they go to the registry.
func newProxy(t *testing.T, change func(*httputil.ProxyRequest)) *proxy {
	t.Helper()
	p := new(proxy)
	p.Server = httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(request *httputil.ProxyRequest) {
		request.SetURL(p.to)
		change(request)
	}})
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) before(r *Registry) { p.to = &url.URL{Scheme: "http", Host: r.Addr, Path: "/"} }

func (p *proxy) host() string { return strings.TrimPrefix(p.URL, "http://") }

// location asks for an image that is not there yet, and checks where the client is sent.
func (p *proxy) location(t *testing.T, path, want string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", v1.MediaTypeImageManifest)
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if got := answer.Header.Get("Location"); answer.StatusCode != http.StatusTemporaryRedirect || got != want ||
		answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the answer is %s to %q, %v; want 307 to %q", answer.Status, got, answer.Header, want)
	}
}

// TestPrefix has registries below /registry/ of reverse proxies: one that the client, the proxy and
// the registry know of, one that only the client and the proxy know of, and one that the client
// does not.
func TestPrefix(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo", "docker")
	packages := FreshPackages(t)
	start := func(t *testing.T, p *proxy, settings ...string) *Registry {
		t.Helper()
		r := StartRegistry(t, append(settings, "nix.build.hold=1s", "nix.packages.path="+packages)...)
		p.before(r)
		return r
	}
	pull := func(t *testing.T, r *Registry, p *proxy, image, asked string) {
		t.Helper()
		answer, err := http.Get(p.URL + asked + image + "/manifests/latest")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK || !strings.Contains(r.Log(), image+"/manifests/latest?hold=1") {
			t.Errorf("the answer is %s; was the client sent round?", answer.Status)
		}
	}
	t.Run("known to all", func(t *testing.T) {
		p := newProxy(t, func(request *httputil.ProxyRequest) { request.SetXForwarded() })
		r := start(t, p, "http.prefix=/registry/")
		p.location(t, "/registry/v2/sleeps.s5/manifests/latest", p.URL+"/registry/v2/sleeps.s5/manifests/latest?hold=1")
		pull(t, r, p, "sleeps.s4", "/registry/v2/")

		// Nothing is where it would be without the prefix.
		if status := ask(t, r, "quick"); status != http.StatusNotFound {
			t.Errorf("outside of the prefix, the answer is %d", status)
		}
		if strings.Contains(r.Log(), "quick") {
			t.Error("a name outside of the prefix was looked at")
		}
	})
	t.Run("unknown to the registry", func(t *testing.T) {
		p := newProxy(t, func(request *httputil.ProxyRequest) {
			request.Out.URL.Path = strings.TrimPrefix(request.Out.URL.Path, "/registry")
		})
		r := start(t, p, "http.host="+p.URL+"/registry/")
		pull(t, r, p, "sleeps.s3", "/registry/v2/")
	})
	t.Run("unknown to the client", func(t *testing.T) {
		p := newProxy(t, func(request *httputil.ProxyRequest) {
			request.Out.URL.Path = "/registry" + request.Out.URL.Path
			request.Out.Host = "another.example"
		})
		r := start(t, p, "http.prefix=/registry/", "http.relativeurls=true")
		for name, pull := range map[string][]string{
			"sleeps.s2": {
				"skopeo", "copy", "--src-tls-verify=false", "docker://" + p.host() + "/sleeps.s2", destination(t),
			},
			"sleeps.s6": {"docker", "pull", "--quiet", p.host() + "/sleeps.s6"},
		} {
			Exec(t, pull[0], pull[1:]...)
			if !strings.Contains(r.Log(), "/registry/v2/"+name+"/manifests/latest?hold=1") {
				t.Errorf("%s was not sent round", pull[0])
			}
		}
	})
}
