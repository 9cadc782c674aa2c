package integration

import (
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// buildFloating lets Nix, as the registry's user has it configured, build content-addressed
// derivations.
func (r *Registry) buildFloating(t testing.TB) {
	t.Helper()
	conf := filepath.Join(r.Dir, "cache", ".config", "nix")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(conf, "nix.conf"), "experimental-features = ca-derivations\n")
}

// names are those of the store paths of an image, sorted.
func (r *Registry) names(t testing.TB, image Image) (names []string) {
	t.Helper()
	for _, p := range r.paths(t, image) {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	return names
}

// TestFloating pulls packages whose store paths only building tells, with the Nix of each Debian
// suite, over a store of its own.
func TestFloating(t *testing.T) {
	t.Parallel()
	Needs(t, "unshare", "mount", "patchelf", "apt-get")
	const off = " is made of a content-addressed derivation, which this registry does not build"
	packages := freshSet(t, "floating")
	images := map[string][]string{ // names of store paths
		"plain":                {"plain"},
		"alone":                {"alone"},
		"floating":             {"floating"},
		"several":              {"floating", "several", "several-dev"},
		"several.dev":          {"several-dev"},
		"uses":                 {"floating", "several", "several-dev", "uses"},
		"floating/several.dev": {"floating", "several-dev"},
	}
	refused := map[string]answer{
		"impure": {
			http.StatusForbidden,
			"impure is made of an impure derivation, which this registry does not build",
		},
		"bulky": {http.StatusForbidden, "the store paths of this image are 3MB together, 1MB are allowed"},
		"reads": {
			http.StatusForbidden,
			"reads needs import from derivation: floating is content-addressed, or made of what is, and evaluations can't read such",
		},
		"fails": {
			http.StatusForbidden,
			"building fails failed with exit code 3; its last lines: no such luck; on the registry's host, `nix-store --read-log /nix/store/HASH-fails.drv` has the whole log",
		},
		"usesfailing": {
			http.StatusForbidden,
			"building fails failed with exit code 3; its last lines: no such luck; on the registry's host, `nix-store --read-log /nix/store/HASH-fails.drv` has the whole log",
		},
		"usesfails": {
			http.StatusForbidden,
			"building usesfails failed with exit code 4; its last lines: compiling /nix/store/HASH-floating; on the registry's host, " +
				"`nix-store --read-log /nix/store/HASH-usesfails.drv` has the whole log",
		},
	}
	var first map[string]digest.Digest
	for _, suite := range []string{"bookworm", "trixie", "sid"} {
		t.Run(suite, func(t *testing.T) {
			if _, known := versionOf(t, suite); !known {
				return
			}
			settings := []string{
				"nix.packages.path=" + packages, "nix.build.hold=300s", "nix.build.concurrency=1",
				"nix.build.maxsize=1MB", "nix.nix.importfromderivation=true",
			}
			r := NewRegistry(t, settings...)
			r.useNix(suite)
			r.Start()
			for _, name := range []string{"floating", "uses"} {
				if got, want := r.answer(t, name), (answer{http.StatusForbidden, name + off}); got != want {
					t.Errorf("where Nix does not build it, %s is answered with %v, want %v", name, got, want)
				}
			}
			r.Pull(t, "generated")
			r.Stop()

			r.buildFloating(t)
			r.Start()
			digests := make(map[string]digest.Digest)
			for _, name := range slices.Sorted(maps.Keys(images)) { // the order has a part in layers
				image := r.Pull(t, name)
				r.CheckWhole(t, image)
				if got := r.names(t, image); !slices.Equal(got, images[name]) {
					t.Errorf("%s has the store paths %q, want %q", name, got, images[name])
				}
				digests[name] = image.Digest
			}
			for name, want := range refused {
				if got := r.answer(t, name); got != want {
					t.Errorf("%s:\n got %v\nwant %v", name, got, want)
				}
			}
			r.Pull(t, "generated/floating")
			if first == nil {
				first = digests
			}
			if !maps.Equal(digests, first) {
				t.Errorf("the images are %v, want %v", digests, first)
			}

			// What was built is known to a registry that starts anew, too.
			r.Stop()
			r.Start()
			programs, before := len(r.Programs()), len(r.Log())
			paths := r.paths(t, r.Pull(t, "alone/uses"))
			if started := r.Programs()[programs:]; len(started) > 0 ||
				strings.Contains(r.Log()[before:], "nix: building ") {
				t.Errorf("for what was built before, programs were started, or Nix was asked to build it: %q", started)
			}
			r.Stop()

			// It is built again if it is no longer there.
			delete := []string{suite, "nix-store", "--delete"}
			for _, p := range paths { // what others are made of can't be deleted so easily
				if p.Name() == "alone" || p.Name() == "uses" {
					delete = append(delete, string(p))
				}
			}
			Exec(t, filepath.Join(shared.root, "scripts", "with-nix.sh"), delete...)
			r.Start()
			before = len(r.Log())
			again := r.Pull(t, "alone/plain/uses")
			r.CheckWhole(t, again)
			got, want := r.names(t, again), []string{"alone", "floating", "plain", "several", "several-dev", "uses"}
			if !slices.Equal(got, want) {
				t.Errorf("when they were deleted, the store paths are %q, want %q", got, want)
			}
			if !strings.Contains(r.Log()[before:], "nix: building 2 derivations") {
				t.Error("they were not built again")
			}
		})
	}
}

// TestFloatingStoreless makes images without a Nix store. Packages whose store paths only building
// tells are refused, unless there is a store to build in.
func TestFloatingStoreless(t *testing.T) {
	t.Parallel()
	Needs(t, "unshare", "mount", "patchelf", "apt-get")
	cache := newBinaryCache(t)
	if err := os.Mkdir(cache.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(cache.dir, "nix-cache-info"), "StoreDir: /nix/store\n")
	packages := freshSet(t, "floating")

	r := NewRegistry(t, cache.storeless("nix.packages.path="+packages)...)
	withoutStore(t, r)
	r.buildFloating(t)
	r.Start()
	want := answer{
		http.StatusForbidden,
		"uses is content-addressed, or made of what is, and this registry has no Nix store to build it in",
	}
	if got := r.answer(t, "plain/uses"); got != want {
		t.Errorf("without a store, it is answered with %v, want %v", got, want)
	}

	r = NewRegistry(t, cache.storeless("nix.packages.path="+packages)...)
	r.useNix("bookworm")
	r.buildFloating(t)
	r.Start()
	image := r.Pull(t, "plain/uses")
	r.CheckWhole(t, image)
	if got, want := r.names(t, image), []string{"floating", "plain", "several", "several-dev", "uses"}; !slices.Equal(
		got, want,
	) {
		t.Errorf("with a store, it has the store paths %q, want %q", got, want)
	}
}

// TestFloatingLayout decides about the layers of packages whose store paths are known when they are
// built.
func TestFloatingLayout(t *testing.T) {
	t.Parallel()
	Needs(t, "unshare", "mount", "patchelf", "apt-get")
	r := NewRegistry(t, "nix.packages.path="+freshSet(t, "floating"))
	r.useNix("bookworm")
	r.buildFloating(t)
	for _, test := range []struct {
		flags      []string
		want, warn string
	}{
		{nil, "0 packages with 0 store paths", "3 packages are skipped"},
		{[]string{"--build"}, "2 packages with 4 store paths", "1 packages are skipped"},
		{nil, "2 packages with 4 store paths", "1 packages are skipped"},
	} {
		args := slices.Concat(
			[]string{"nix", "layout", "--config", r.ConfigFile()}, test.flags,
			[]string{"floating", "uses", "fails"},
		)
		stdout, stderr, err := TryExec(t.Context(), r.Program, args...)
		if err != nil || !strings.Contains(stdout, test.want) || !strings.Contains(stderr, test.warn) {
			t.Errorf("layout %q: %v, %q, %s; want %q and %q", test.flags, err, stdout, stderr, test.want, test.warn)
		}
	}
}
