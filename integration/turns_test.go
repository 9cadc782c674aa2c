package integration

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestTurns has one client ask for many images that take a while, and then another one for an image.
// That one waits for what is being built, and for none of those that wait.
func TestTurns(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t), "nix.build.concurrency=1")
	ask := func(from, name string) error {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
		request, err := http.NewRequestWithContext(
			t.Context(), http.MethodGet, "http://"+r.Addr+"/v2/"+name+"/manifests/latest", nil,
		)
		if err != nil {
			return err
		}
		request.Header.Set("Accept", v1.MediaTypeImageManifest)
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("pulling %s: %s", name, response.Status)
		}
		return nil
	}
	const many = 6
	var others sync.WaitGroup
	for n := range many {
		others.Go(func() {
			if err := ask("127.0.0.2", fmt.Sprintf("sleeps.s%d", 3+n)); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		})
	}
	Eventually(t, commandTime, "all are asked for", func() bool {
		return strings.Count(r.Log(), "nix: building ") > 0 && len(r.Programs()) >= many
	})
	if err := ask("127.0.0.3", "quick"); err != nil {
		t.Fatal(err)
	}
	if before := strings.Count(r.Log(), "image=sleeps.s"); before > 2 {
		t.Errorf("%d of %d images of the other client came first", before, many)
	}
	others.Wait()
}
