package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// otherKey has the name of a cache's key, and is another one.
const otherKey = `nix.nix.trustedpublickeys=["cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]`

// onPaths applies a fault to those of a cache's files that have a text in their path.
func (c *binaryCache) onPaths(text string, fault http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, text) {
			fault(w, r)
			return
		}
		http.FileServer(http.Dir(c.dir)).ServeHTTP(w, r)
	}
}

// fails answers with a status.
func fails(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", status) }
}

// hangs takes a request and never answers.
func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// trickles answers with a file in small pieces.
func (c *binaryCache) trickles(w http.ResponseWriter, r *http.Request) {
	content, err := os.ReadFile(filepath.Join(c.dir, filepath.Clean(r.URL.Path)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	for len(content) > 0 {
		n := min(len(content), 20)
		if _, err := w.Write(content[:n]); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		content = content[n:]
		time.Sleep(50 * time.Millisecond)
	}
}

// damage changes all archives of a cache.
func (c *binaryCache) damage(t *testing.T, change func([]byte) []byte) {
	t.Helper()
	archives, err := filepath.Glob(filepath.Join(c.dir, "nar", "*"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("the cache has no archives: %v", err)
	}
	for _, archive := range archives {
		c.edit(t, archive, change)
	}
}

// TestCacheFaults makes a binary cache fail in all its ways, for a registry with a Nix store.
// Packages that can be built are built, unless the cache may answer in a moment. Others are refused
// with the fault of the cache. The log names the cache, and once it works again, packages come from
// there.
func TestCacheFaults(t *testing.T) {
	t.Parallel()
	const ok, denied, unavailable = http.StatusOK, http.StatusForbidden, http.StatusServiceUnavailable
	cut := func(archive []byte) []byte { return archive[:len(archive)/2] }
	flip := func(archive []byte) []byte { archive[len(archive)/2] ^= 1; return archive }
	for _, test := range []struct {
		name        string
		compression string // xz unless it says so
		setting     string
		fail        func(t *testing.T, c *binaryCache)
		only        string // what the cache has is that package alone

		builds    int    // the status of reader, which can be built; zero: it is not asked for
		lacking   int    // that of elsewhere, which can't be built here
		text, log string // what clients are told of elsewhere, and what is logged; CACHE is the cache's URL
	}{
		{
			name: "another key", setting: otherKey, builds: ok, lacking: denied,
			text: "a binary cache has elsewhere-1.0 and others, but no key that this registry trusts has signed that",
			log:  "-elsewhere-1.0, but no trusted key has signed it: it is signed by cache.example.org-1;",
		},
		{
			name: "no archive", builds: ok, lacking: denied, text: "but the archive is gone or damaged",
			log:  "does not exist in binary cache 'CACHE'",
			fail: func(t *testing.T, c *binaryCache) { c.setFault(c.onPaths("/nar/", http.NotFound)) },
		},
		{
			name: "no archive of a dependency", only: "library", builds: ok, lacking: denied,
			text: "but the archive is gone or damaged",
			log:  "does not exist in binary cache 'CACHE'",
			fail: func(t *testing.T, c *binaryCache) { c.setFault(c.onPaths("/nar/", http.NotFound)) },
		},
		{
			name: "a damaged archive", builds: ok, lacking: denied, text: "but the archive is gone or damaged",
			log:  "of a binary cache: Failed to open archive",
			fail: func(t *testing.T, c *binaryCache) { c.damage(t, flip) },
		},
		{
			name: "a damaged archive of a dependency", only: "library", builds: ok, lacking: denied,
			text: "but the archive is gone or damaged",
			log:  "of a binary cache: Failed to open archive",
			fail: func(t *testing.T, c *binaryCache) { c.damage(t, flip) },
		},
		{
			name: "an archive of other content", compression: "none", builds: ok, lacking: denied,
			text: "but the archive is gone or damaged", log: "of a binary cache: ",
			fail: func(t *testing.T, c *binaryCache) { c.damage(t, flip) },
		},
		{
			name: "an archive that is cut off", compression: "zstd", builds: ok, lacking: denied,
			text: "but the archive is gone or damaged",
			log:  "of a binary cache: Failed to open archive (Truncated zstd input)",
			fail: func(t *testing.T, c *binaryCache) { c.damage(t, cut) },
		},
		{
			name: "an archive that is cut off, uncompressed", compression: "none", builds: ok, lacking: denied,
			text: "but the archive is gone or damaged",
			log:  "fetched from 'CACHE' is incomplete",
			fail: func(t *testing.T, c *binaryCache) { c.damage(t, cut) },
		},
		{
			name: "errors for archives", builds: unavailable, lacking: unavailable,
			text: "a binary cache that has it does not answer as it should", log: "unable to download 'CACHE/nar/",
			fail: func(t *testing.T, c *binaryCache) {
				c.setFault(c.onPaths("/nar/", fails(http.StatusInternalServerError)))
			},
		},
		{
			name: "errors for what it has", builds: unavailable, lacking: unavailable,
			text: "see the registry's log: ask again later", log: "unable to download 'CACHE/",
			fail: func(t *testing.T, c *binaryCache) {
				c.setFault(c.onPaths(".narinfo", fails(http.StatusInternalServerError)))
			},
		},
		{
			name: "down", builds: ok, lacking: unavailable, text: "a binary cache does not answer at the moment",
			log:  "unable to download 'CACHE/nix-cache-info'",
			fail: func(t *testing.T, c *binaryCache) { c.setDown(true) },
		},
		{
			name: "no cache", builds: ok, lacking: unavailable, text: "a binary cache does not answer at the moment",
			log:  "'CACHE' does not appear to be a binary cache",
			fail: func(t *testing.T, c *binaryCache) { c.setFault(http.NotFound) },
		},
		{name: "slow", builds: ok, lacking: ok, fail: func(t *testing.T, c *binaryCache) { c.setFault(c.trickles) }},
		{
			name: "silent when it is asked what it has", lacking: unavailable,
			text: "see the registry's log: ask again later", log: "unable to download 'CACHE/",
			fail: func(t *testing.T, c *binaryCache) { c.setFault(c.onPaths(".narinfo", hangs)) },
		},
		{
			name: "silent when it is asked for an archive", lacking: unavailable,
			text: "a binary cache that has it does not answer as it should",
			log:  "unable to download 'CACHE/nar/",
			fail: func(t *testing.T, c *binaryCache) { c.setFault(c.onPaths("/nar/", hangs)) },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t)
			attributes := []string{"reader", "elsewhere"}
			if test.only != "" {
				attributes = []string{test.only}
			}
			cache := newBinaryCache(t)
			cache.build(t, packages, test.compression, attributes...)
			settings := cache.settings("nix.packages.path="+packages, "nix.build.hold=250s")
			r := NewRegistry(t, settings...)
			if test.setting != "" {
				r.Configure(append(settings, test.setting)...)
			}
			if test.fail != nil {
				test.fail(t, cache)
			}
			r.Start()
			text := strings.ReplaceAll(test.text, "CACHE", cache.url)
			for _, name := range []string{"elsewhere", "reader"} {
				want := test.builds
				if name == "elsewhere" {
					want = test.lacking
				}
				if want == 0 {
					continue
				}
				status, header, body, err := r.Get(
					t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest,
				)
				if err != nil || status != want || name == "elsewhere" && !strings.Contains(string(body), text) {
					t.Errorf("%s is answered with %d %s, %v, want %d and %q", name, status, body, err, want, text)
				}
				if (status == unavailable) != (header.Get("Retry-After") != "") {
					t.Errorf("%s: %d has Retry-After %q", name, status, header.Get("Retry-After"))
				}
				if status == ok {
					r.CheckWhole(t, r.Pull(t, name))
				} else if strings.Contains(string(body), cache.url) {
					t.Errorf("clients are told where the cache is: %s", body)
				}
			}
			if log := strings.ReplaceAll(test.log, "CACHE", cache.url); !strings.Contains(r.Log(), log) {
				t.Errorf("the log lacks %q", log)
			}
			r.Stop() // what failed is remembered for a minute

			cache.setFault(nil)
			if err := os.RemoveAll(cache.dir); err != nil {
				t.Fatal(err)
			}
			cache.build(t, packages, test.compression, attributes...)
			r.Configure(settings...)
			r.Start()
			if test.only == "" {
				r.CheckWhole(t, r.Pull(t, "elsewhere"))
			}
		})
	}
}

// TestMendedCache mends a binary cache while a registry runs. That is noticed after a time, since
// permanent failures, and what caches have, are remembered for a minute; then packages come from
// there.
func TestMendedCache(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		spoil, fix func(t *testing.T, packages string, c *binaryCache)
		status     int
	}{
		{
			name: "down at first", status: http.StatusServiceUnavailable,
			spoil: func(t *testing.T, _ string, c *binaryCache) { c.setDown(true) },
			fix:   func(t *testing.T, _ string, c *binaryCache) { c.setDown(false) },
		},
		{
			name: "without the package", status: http.StatusForbidden,
			spoil: func(t *testing.T, _ string, c *binaryCache) { c.setFault(c.onPaths(".narinfo", http.NotFound)) },
			fix:   func(t *testing.T, _ string, c *binaryCache) { c.setFault(nil) },
		},
		{
			name: "signed by another key", status: http.StatusForbidden,
			spoil: func(t *testing.T, packages string, c *binaryCache) {
				other := newBinaryCache(t)
				(&binaryCache{dir: c.dir, secret: other.secret}).build(t, packages, "", "elsewhere")
			},
			fix: func(t *testing.T, packages string, c *binaryCache) {
				if err := os.RemoveAll(c.dir); err != nil {
					t.Fatal(err)
				}
				c.build(t, packages, "", "elsewhere")
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t)
			cache := newBinaryCache(t)
			if test.name != "signed by another key" {
				cache.build(t, packages, "", "elsewhere")
			}
			test.spoil(t, packages, cache)
			r := StartRegistry(t, cache.settings("nix.packages.path="+packages)...)
			ask := func() int {
				status, _, _, err := r.Get(t.Context(), "/v2/elsewhere/manifests/latest", v1.MediaTypeImageManifest)
				if err != nil {
					t.Fatal(err)
				}
				return status
			}
			if got := ask(); got != test.status {
				t.Errorf("the answer is %d, want %d", got, test.status)
			}
			test.fix(t, packages, cache)
			Eventually(t, commandTime, "the package is there", func() bool {
				time.Sleep(time.Second)
				return ask() == http.StatusOK
			})
			r.CheckWhole(t, r.Pull(t, "elsewhere"))
		})
	}
}

// TestKilledDaemon ends Nix in the middle of its work for an image. The work is done once more. If
// that ends in the same way, clients are asked to come back, the log says what happened, and the
// next pull has the image.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, image string
		cached      bool
	}{
		{name: "while it builds", image: "sleeps.s3"},
		{name: "while it downloads", image: "reader", cached: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := FreshPackages(t)
			cache := newBinaryCache(t)
			settings := []string{"nix.packages.path=" + packages}
			if test.cached {
				cache.build(t, packages, "", test.image)
				cache.setFault(cache.onPaths("/nar/", hangs))
				settings = cache.settings(settings...)
			}
			r := StartRegistry(t, settings...)
			type answer struct {
				status     int
				retryAfter string
				body       []byte
				err        error
			}
			// kill pulls the image, and kills Nix so many times.
			kill := func(times int) answer {
				t.Helper()
				answers := make(chan answer, 1)
				begun := strings.Count(r.Log(), "nix: building ")
				go func() {
					status, header, body, err := r.Get(
						context.WithoutCancel(t.Context()), "/v2/"+test.image+"/manifests/latest",
						v1.MediaTypeImageManifest,
					)
					answers <- answer{status, header.Get("Retry-After"), body, err}
				}()
				for i := range times {
					r.AwaitLog("nix: building ", begun+i+1)
					if killed := r.killPrograms(t, "nix-daemon"); killed == 0 {
						t.Error("there was no nix-daemon to kill")
					}
				}
				return <-answers
			}
			got := kill(2)
			if got.err != nil || got.status != http.StatusServiceUnavailable || got.retryAfter == "" ||
				!strings.Contains(string(got.body), "ask again later") {
				t.Errorf("the answer is %d %s, Retry-After %q, %v", got.status, got.body, got.retryAfter, got.err)
			}
			if log := r.Log(); !strings.Contains(log, "can't be built at the moment") ||
				!strings.Contains(log, "signal: killed") {
				t.Error("the log does not say that Nix was killed")
			}
			cache.setFault(nil)
			if got := kill(1); got.err != nil || got.status != http.StatusOK {
				t.Errorf("after Nix was killed once, the answer is %d %s, %v", got.status, got.body, got.err)
			}
			r.CheckWhole(t, r.Pull(t, test.image))
		})
	}
}

// killPrograms ends the registry's child processes of a name without notice, and tells how many
// there were.
func (r *Registry) killPrograms(t *testing.T, name string) (killed int) {
	t.Helper()
	return r.signalPrograms(t, name, syscall.SIGKILL)
}

// signalPrograms sends the registry's child processes of a name a signal, and tells how many there
// were.
func (r *Registry) signalPrograms(t *testing.T, name string, signal syscall.Signal) (reached int) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		var pid, parent int
		var state string
		before, after, ok := strings.Cut(string(stat), " ("+name+") ")
		if !ok {
			continue
		}
		if _, err := fmt.Sscan(before, &pid); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(after, &state, &parent); err != nil {
			t.Fatal(err)
		}
		if parent != r.cmd.Process.Pid {
			continue
		}
		if err := syscall.Kill(pid, signal); err == nil {
			reached++
		} else if !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
	}
	return reached
}
