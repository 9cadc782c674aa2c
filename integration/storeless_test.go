package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// withoutStore shows a registry an empty, read-only directory in place of Nix's store and state.
func withoutStore(t testing.TB, r *Registry) {
	t.Helper()
	Needs(t, "unshare", "mount")
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(Dir(t), "registry")
	Write(
		t, script,
		fmt.Sprintf("#!/bin/sh\nset -eu\nmount -t tmpfs -o ro,mode=755 none /nix\nexec '%s' \"$@\"\n", program),
	)
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	wrapper := script + "-wrapper"
	Write(t, wrapper, fmt.Sprintf("#!/bin/sh\nexec unshare --mount --propagation private '%s' \"$@\"\n", script))
	if err := os.Chmod(wrapper, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "true").CombinedOutput(); err != nil {
		needs.Missing(t, "mount namespaces are needed: %v %s", err, out)
	}
	r.Program = wrapper
}

// TestStoreless packs real packages straight from a binary cache, where there is no Nix store at
// all, and gets the images that a registry with a store makes.
func TestStoreless(t *testing.T) {
	t.Parallel()
	ordinary := StartRegistry(t)
	for _, test := range []struct {
		compression string
		images      []string
	}{
		{"zstd", []string{"shell/git/perl/python3", "nginx", "git/nginx", "ci"}},
		{"xz", []string{"hello"}},
		{"none", []string{"tree"}},
		{"bzip2", []string{"hello"}},
		{"gzip", []string{"tree"}},
	} {
		t.Run(test.compression, func(t *testing.T) {
			cache := newBinaryCache(t)
			r := NewRegistry(t, cache.storeless()...)
			withoutStore(t, r)
			r.Start()
			pull := func(name string) (archives []string) {
				t.Helper()
				want := ordinary.Pull(t, name)
				cache.add(t, "", test.compression, ordinary.paths(t, want)...)
				cache.requests("")
				got := r.Pull(t, name)
				if got.Digest != want.Digest {
					t.Errorf("%s is %s, out of a store it is %s", name, got.Digest, want.Digest)
				}
				r.CheckWhole(t, got)
				archives = cache.requests(`^/nar/`)
				slices.Sort(archives)
				if n := len(slices.Compact(slices.Clone(archives))); n < len(archives) {
					t.Errorf("%d archives were fetched, %d of them more than once", len(archives), len(archives)-n)
				}
				return archives
			}
			for _, name := range test.images {
				if archives := pull(name); (len(archives) > 0) == (name == "git/nginx") {
					t.Errorf("%s: archives that were fetched: %q", name, archives)
				}
			}
			if programs := r.Programs(); slices.Contains(programs, "nix-daemon") ||
				slices.Contains(programs, "nix-store") {
				t.Errorf("programs were started: %q", programs)
			}
			if test.compression != "zstd" {
				return
			}
			r.Stop() // what is in memory is lost
			r.Start()
			if archives := pull("nginx/perl"); len(archives) > 0 {
				t.Errorf("packages that other images have were fetched again: %q", archives)
			}
		})
	}
}

// TestStorelessFaults makes a binary cache fail in all its ways. Nothing is kept of what is not
// whole, the client is told what is wrong, and once the cache works again the image is made.
func TestStorelessFaults(t *testing.T) {
	t.Parallel()
	ordinary := StartRegistry(t)
	want := ordinary.Pull(t, "tree")
	paths := ordinary.paths(t, want)
	tree := paths[slices.IndexFunc(paths, func(p store.Path) bool { return strings.HasPrefix(p.Name(), "tree-") })]
	resign := func(t *testing.T, c *binaryCache) {
		if err := os.RemoveAll(c.dir); err != nil {
			t.Fatal(err)
		}
		(&binaryCache{dir: c.dir, secret: newBinaryCache(t).secret}).add(t, "", "zstd", paths...)
	}
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, c *binaryCache)
		status int
		text   string
	}{
		{"signed by another key", resign, http.StatusForbidden, "no trusted key has signed it"},
		{"another hash", func(t *testing.T, c *binaryCache) {
			c.edit(t, c.narinfo(tree), func(text []byte) []byte {
				return regexp.MustCompile(`NarHash: sha256:....`).ReplaceAll(text, []byte("NarHash: sha256:0000"))
			})
		}, http.StatusForbidden, "no trusted key has signed it"},
		{"another content", func(t *testing.T, c *binaryCache) {
			c.edit(t, c.archive(t, tree), func(archive []byte) []byte { archive[len(archive)/2] ^= 1; return archive })
		}, http.StatusForbidden, "can't be downloaded: a binary cache has it, but the archive"},
		{"cut off", func(t *testing.T, c *binaryCache) {
			c.edit(t, c.archive(t, tree), func(archive []byte) []byte { return archive[:len(archive)/2] })
		}, http.StatusForbidden, "can't be downloaded: a binary cache has it, but the archive"},
		{"no archive", func(t *testing.T, c *binaryCache) {
			if err := os.Remove(c.archive(t, tree)); err != nil {
				t.Fatal(err)
			}
		}, http.StatusForbidden, "the archive is gone"},
		{"not there", func(t *testing.T, c *binaryCache) {
			if err := os.Remove(c.narinfo(tree)); err != nil {
				t.Fatal(err)
			}
		}, http.StatusForbidden, tree.Name() + " can't be downloaded: no binary cache has it, and this registry has no Nix store to build it in"},
		{
			"down", func(_ *testing.T, c *binaryCache) { c.setDown(true) }, http.StatusServiceUnavailable,
			"ask again later",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cache := newBinaryCache(t)
			cache.add(t, "", "zstd", paths...)
			r := NewRegistry(t, cache.storeless()...)
			withoutStore(t, r)
			test.damage(t, cache)
			r.Start()
			status, _, body, err := r.Get(t.Context(), "/v2/tree/manifests/latest", v1.MediaTypeImageManifest)
			if err != nil || status != test.status || !strings.Contains(string(body), test.text) {
				t.Errorf("answered with %d %s, %v, want %d and %q", status, body, err, test.status, test.text)
			}
			if left := r.uploads(t); len(left) > 0 {
				t.Errorf("half-committed: %q", left)
			}
			if tagged := slices.ContainsFunc(
				files(t, r.storage()),
				func(name string) bool { return strings.Contains(name, "/_manifests/") },
			); tagged {
				t.Error("there is a manifest")
			}
			r.Stop() // what failed is remembered for a minute

			cache.setDown(false)
			if err := os.RemoveAll(cache.dir); err != nil {
				t.Fatal(err)
			}
			cache.add(t, "", "zstd", paths...)
			r.Start()
			if got := r.Pull(t, "tree"); got.Digest != want.Digest {
				t.Errorf("when all is right again, the image is %s, want %s", got.Digest, want.Digest)
			}
		})
	}
}

// TestStorelessBuilds builds packages that no binary cache has, if there is a Nix store.
func TestStorelessBuilds(t *testing.T) {
	t.Parallel()
	cache := newBinaryCache(t)
	if err := os.Mkdir(cache.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(cache.dir, "nix-cache-info"), "StoreDir: /nix/store\n")
	packages := FreshPackages(t)
	r := StartRegistry(t, cache.storeless("nix.packages.path="+packages)...)
	if programs := r.Programs(); slices.Contains(programs, "nix-daemon") {
		t.Errorf("before it is needed, Nix was started: %q", programs)
	}
	r.CheckWhole(t, r.Pull(t, "quick"))
	if log := r.Log(); !strings.Contains(log, "no binary cache has it") || !strings.Contains(log, logBuilding) {
		t.Error("the log does not say that it was built")
	}
}

// TestStorelessPlatform makes an image for a platform for which this machine can neither build nor
// run programs.
func TestStorelessPlatform(t *testing.T) {
	t.Parallel()
	Needs(t, "nix-build")
	packages := freshSet(t, "platforms")
	// A machine that believes that it can is in the place of one that can.
	own := "local?root=" + filepath.Join(Dir(t), "store")
	built := Exec(
		t, "nix-build", "--no-out-link", "--option", "substituters", "", "--option", "build-users-group", "",
		"--option", "extra-platforms", "aarch64-linux", "--store", own, "--argstr", "system", "aarch64-linux",
		"-A", "native", packages,
	)
	cache := newBinaryCache(t)
	cache.add(t, own, "zstd", store.Path(built))

	r := NewRegistry(
		t, cache.storeless("nix.packages.path="+packages, `nix.platforms=["linux/amd64", "linux/arm64"]`)...)
	withoutStore(t, r)
	r.Start()
	image := r.Pull(t, "arm64/native")
	r.CheckWhole(t, image)
	var config v1.Image
	if err := json.Unmarshal(r.Blob(t, image, image.Config), &config); err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || !slices.Contains(r.paths(t, image), store.Path(built)) {
		t.Errorf("the image is for %s and holds %q, want %s", config.Architecture, r.paths(t, image), built)
	}
}

// paths are the store paths that an image says it holds.
func (r *Registry) paths(t testing.TB, image Image) (paths []store.Path) {
	t.Helper()
	var config v1.Image
	if err := json.Unmarshal(r.Blob(t, image, image.Config), &config); err != nil {
		t.Fatal(err)
	}
	for _, history := range config.History {
		held, err := historyPaths(history)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, held...)
	}
	return paths
}
