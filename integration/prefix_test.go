package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPrefix has a registry below /registry/ of a reverse proxy. One client knows of that; the
// other, for which no image's name has a host with a path, gets there by a proxy that knows.
func TestPrefix(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo", "docker")
	r := StartRegistry(t, "http.prefix=/registry/", "nix.build.hold=1s", "nix.packages.path="+FreshPackages(t))
	backend := &url.URL{Scheme: "http", Host: r.Addr, Path: "/"}
	proxy := func(path string) (*url.URL, string) {
		server := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(backend.JoinPath(path))
			request.SetXForwarded()
		}})
		t.Cleanup(server.Close)
		address, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		return address, address.Host
	}

	t.Run("known to the client", func(t *testing.T) {
		address, host := proxy("/")
		resolver := docker.NewResolver(docker.ResolverOptions{Hosts: func(string) ([]docker.RegistryHost, error) {
			return []docker.RegistryHost{{
				Client: http.DefaultClient, Host: host, Scheme: "http", Path: "/registry/v2",
				Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			}}, nil
		}})
		name, manifest, err := resolver.Resolve(t.Context(), host+"/sleeps.s4:latest")
		if err != nil {
			t.Fatal(err)
		}
		fetcher, err := resolver.Fetcher(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		content, err := fetcher.Fetch(t.Context(), manifest)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		if n, err := io.Copy(io.Discard, content); err != nil || n != manifest.Size {
			t.Errorf("the manifest has %d bytes, want %d: %v", n, manifest.Size, err)
		}
		if !strings.Contains(r.Log(), "/registry/v2/sleeps.s4/manifests/latest?hold=1") {
			t.Error("the client was not sent round")
		}

		// The redirect names neither host nor path, so no proxy has to know of it.
		held, err := http.NewRequestWithContext(
			t.Context(), http.MethodGet, address.JoinPath("registry/v2/sleeps.s5/manifests/latest").String(),
			nil,
		)
		if err != nil {
			t.Fatal(err)
		}
		held.Header.Set("Accept", v1.MediaTypeImageManifest)
		answer, err := http.DefaultTransport.RoundTrip(held)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if got := answer.Header.Get("Location"); answer.StatusCode != http.StatusTemporaryRedirect || got != "?hold=1" {
			t.Errorf("the answer is %s to %q, want 307 to ?hold=1", answer.Status, got)
		}
	})
	t.Run("known to the proxy", func(t *testing.T) {
		_, host := proxy("/registry/")
		for name, pull := range map[string][]string{
			"sleeps.s3": {
				"skopeo", "copy", "--src-tls-verify=false", "docker://" + host + "/sleeps.s3", destination(t),
			},
			"sleeps.s2": {"docker", "pull", "--quiet", host + "/sleeps.s2"},
		} {
			Exec(t, pull[0], pull[1:]...)
			if !strings.Contains(r.Log(), "/registry/v2/"+name+"/manifests/latest?hold=1") {
				t.Errorf("%s was not sent round", pull[0])
			}
		}
	})
	// Nothing is where it would be without the prefix.
	if status := ask(t, r, "quick"); status != http.StatusNotFound {
		t.Errorf("outside of the prefix, the answer is %d", status)
	}
	if strings.Contains(r.Log(), "quick") {
		t.Error("a name outside of the prefix was looked at")
	}
}
