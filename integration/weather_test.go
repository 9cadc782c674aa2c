package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A remote is a server that a registry needs, behind a network.
type remote struct {
	name string
	// start starts a registry, while the network to its remote is fair.
	start func(t *testing.T) (r *Registry, network *network, move func())
	// serves tells whether what is stored is served whatever the weather.
	serves bool
}

// TestWeather has the network to each remote end, keep silent, drip and break, while an image that is
// stored is pulled, which comes if the remote need not be asked for it, and one that is not. When the
// weather is fair again, everything comes, and is whole: nothing wrong was remembered.
func TestWeather(t *testing.T) {
	t.Parallel()
	for _, remote := range weatherRemotes() {
		t.Run(remote.name, func(t *testing.T) {
			t.Parallel()
			r, network, move := remote.start(t)
			stored := r.Pull(t, "quick")
			for _, next := range []struct {
				weather weather
				image   string
			}{{cut, "library"}, {mute, "reader"}, {drips, "writer"}, {breaks, "editor"}} {
				move()
				network.turn(next.weather)
				t.Logf("the network %s", next.weather)
				testWeather(t, r, network, remote.serves, next.image)
				if again := r.Pull(t, "quick"); remote.serves && len(again.Layers) != len(stored.Layers) {
					t.Errorf("what was stored has %d layers, and had %d", len(again.Layers), len(stored.Layers))
				}
			}
		})
	}
}

// testWeather asks in bad weather, and then in fair weather.
func testWeather(t *testing.T, r *Registry, network *network, serves bool, image string) {
	t.Helper()
	ask := func(name string) int {
		status, _, body, err := r.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
		later := status == http.StatusTemporaryRedirect || status >= http.StatusInternalServerError
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case status != http.StatusOK && !later:
			t.Errorf("%s is answered with %d %s", name, status, body)
		}
		return status
	}
	var asking sync.WaitGroup
	asking.Go(func() { ask(image) })
	if serves {
		if status := ask("quick"); status != http.StatusOK {
			t.Errorf("what is stored is answered with %d", status)
		}
	} else {
		asking.Go(func() { ask("quick") })
	}
	network.reached(t) // something was asked
	network.turn(fair)
	asking.Wait()
	for _, name := range []string{"quick", image} {
		Eventually(t, commandTime, name+" comes again", func() bool { return ask(name) == http.StatusOK })
		r.CheckWhole(t, r.Pull(t, name))
	}
}

// weatherRemotes are the servers that a registry may need. Nix's daemon is a process (TestStoppedDaemons).
func weatherRemotes() []remote {
	hold := "nix.build.hold=2s"
	return []remote{
		{
			name: "channel", serves: true,
			start: func(t *testing.T) (*Registry, *network, func()) {
				mirror := serveChannel(t, FreshPackages(t), strings.Repeat("a", 40))
				network := networkTo(t, mirror.url)
				mirror.url = "http://" + network.listener.Addr().String()
				revision := 0
				return StartRegistry(t, "nix.packages="+mirror.packages(), "nix.refresh=1ns", hold), network, func() {
					revision++
					mirror.moveTo(fmt.Sprintf("%040d", revision))
				}
			},
		},
		{
			name: "git", serves: true,
			start: func(t *testing.T) (*Registry, *network, func()) {
				set := newRepository(t)
				set.commit("one")
				server := startGitHTTP(t, set.dir, "", "")
				network := networkTo(t, server.URL)
				r := NewRegistry(t, append(gitSettings(network.url(server.Server)+"/.git"), hold)...)
				authority := filepath.Join(Dir(t), "ca.pem")
				writeCertificate(t, authority, server.Certificate())
				r.Env = []string{"HOME=" + filepath.Dir(authority), "GIT_SSL_CAINFO=" + authority}
				r.Start()
				return r, network, func() { set.commit(fmt.Sprint("then ", time.Now())) }
			},
		},
		{
			name: "binary cache", serves: true,
			start: func(t *testing.T) (*Registry, *network, func()) {
				packages := FreshPackages(t)
				cache := cacheOf(t, packages, "quick", "library", "reader", "writer", "editor")
				network := networkTo(t, cache.url)
				cache.url = network.url(cache.server)
				return StartRegistry(t, cache.settings("nix.packages.path="+packages, hold)...), network, func() {}
			},
		},
		{
			name: "binary cache without a store", serves: true,
			start: func(t *testing.T) (*Registry, *network, func()) {
				packages := FreshPackages(t)
				cache := cacheOf(t, packages, "quick", "library", "reader", "writer", "editor")
				network := networkTo(t, cache.url)
				cache.url = network.url(cache.server)
				return StartRegistry(t, cache.storeless("nix.packages.path="+packages, hold)...), network, func() {}
			},
		},
		{
			name: "bucket",
			start: func(t *testing.T) (*Registry, *network, func()) {
				s := newS3(t)
				network := networkTo(t, s.server.URL)
				s.server.URL = network.url(s.server)
				settings := []string{"nix.packages.path=" + FreshPackages(t), "storage.redirect.disable=true", hold}
				return s.Start(t, settings...), network, func() {}
			},
		},
	}
}
