package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A cachingProxy follows redirects of manifests itself, as nginx does with proxy_intercept_errors,
// and keeps what it gets by the path and the Accept header, whatever the answer says about keeping.
type cachingProxy struct {
	registry string // its URL
	absolute bool   // puts the registry before a Location that is no URL; otherwise that is an error

	mu   sync.Mutex
	kept map[string]*httptest.ResponseRecorder
}

func (p *cachingProxy) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	key := request.Method + request.URL.Path + request.Header.Get("Accept")
	p.mu.Lock()
	answer, ok := p.kept[key]
	p.mu.Unlock()
	if !ok {
		answer = p.follow(request)
		if answer.Code == http.StatusOK && strings.Contains(request.URL.Path, "/manifests/") {
			p.mu.Lock()
			p.kept[key] = answer
			p.mu.Unlock()
		}
	}
	for key, values := range answer.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// follow asks the registry, and whatever it sends to.
func (p *cachingProxy) follow(request *http.Request) *httptest.ResponseRecorder {
	target := p.registry + request.URL.RequestURI()
	for range 10 {
		answer, err := askAs(request, target)
		if err != nil {
			return broken(err.Error())
		}
		if answer.Code != http.StatusTemporaryRedirect || !strings.Contains(target, "/manifests/") {
			return answer
		}
		if target = answer.Header().Get("Location"); !strings.HasPrefix(target, "http") {
			if !p.absolute {
				return broken(fmt.Sprintf("invalid URL prefix in %q", target))
			}
			target = p.registry + target
		}
	}
	return broken("sent round too often")
}

// askAs sends a request to another URL.
func askAs(request *http.Request, target string) (*httptest.ResponseRecorder, error) {
	out, err := http.NewRequestWithContext(request.Context(), request.Method, target, nil)
	if err != nil {
		return nil, err
	}
	out.Header = request.Header
	got, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	answer := httptest.NewRecorder()
	for key, values := range got.Header {
		answer.Header()[key] = values
	}
	answer.WriteHeader(got.StatusCode)
	_, err = io.Copy(answer, got.Body)
	return answer, err
}

func broken(text string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	http.Error(answer, text, http.StatusInternalServerError)
	return answer
}

// TestCachingProxies pulls through proxies that follow redirects themselves while an image is built,
// and again from what they have kept. Nothing of that is an error in the log.
func TestCachingProxies(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo", "docker", "podman")
	r := StartRegistry(t, "nix.build.hold=1s", "nix.packages.path="+FreshPackages(t))
	images := []string{"sleeps.s4", "sleeps.s5"}
	for i, absolute := range []bool{false, true} {
		p := httptest.NewServer(&cachingProxy{
			registry: "http://" + r.Addr, absolute: absolute, kept: make(map[string]*httptest.ResponseRecorder),
		})
		t.Cleanup(p.Close)
		host := strings.TrimPrefix(p.URL, "http://")
		for range 2 {
			Exec(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+host+"/"+images[i], destination(t))
			Exec(t, "docker", "pull", "--quiet", host+"/"+images[i])
			Exec(t, "podman", "pull", "--quiet", "--tls-verify=false", host+"/"+images[i])
		}
		if !strings.Contains(r.Log(), images[i]+"/manifests/latest?hold=1") {
			t.Error("the proxy was not sent round")
		}
	}
	if log := r.Log(); strings.Contains(log, "level=error") || !strings.Contains(log, "http.response.status=307") {
		t.Error("the log has an error, or no redirect")
	}
}

// A mirror that tells by the parameter ns whose images are asked for gets it again and again.
func TestMirrorByNamespace(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.build.hold=1s", "nix.packages.path="+FreshPackages(t))
	through := &httputil.ReverseProxy{Rewrite: func(request *httputil.ProxyRequest) {
		request.SetURL(&url.URL{Scheme: "http", Host: r.Addr})
		request.SetXForwarded()
	}}
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.URL.Query().Get("ns") != "nix.example" {
			http.Error(w, "no ns", http.StatusBadRequest)
			return
		}
		through.ServeHTTP(w, request)
	}))
	t.Cleanup(mirror.Close)
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: func(string) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{{
			Client: http.DefaultClient, Host: strings.TrimPrefix(mirror.URL, "http://"), Scheme: "http", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}}, nil
	}})
	if err := fetchManifest(t.Context(), resolver, "nix.example/sleeps.s4:latest"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(r.Log(), "latest?ns=nix.example&hold=1") {
		t.Error("the mirror's client was not sent round")
	}
}

// TestPullThrough has a stock registry before this one as its cache.
func TestPullThrough(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo", "docker")
	r := StartRegistry(t, "nix.build.hold=1s", "nix.packages.path="+FreshPackages(t))
	cache := StartRegistry(t, "middleware={}", `proxy={"remoteurl": "http://`+r.Addr+`"}`)
	Exec(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+cache.Ref("sleeps.s4"), destination(t))
	Exec(t, "docker", "pull", "--quiet", cache.Ref("sleeps.s4"))
	if !strings.Contains(r.Log(), "sleeps.s4/manifests/latest?hold=1") {
		t.Error("the cache was not sent round")
	}
	own := r.form(t, "sleeps.s4", "latest", v1.MediaTypeImageManifest, v1.MediaTypeImageManifest)
	if through := cache.Pull(t, "sleeps.s4"); through.Digest != own.digest {
		t.Errorf("the cache has %s, the registry %s", through.Digest, own.digest)
	}
}
