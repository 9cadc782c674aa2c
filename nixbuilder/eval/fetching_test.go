package eval

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// inner is the package set that others fetch.
const inner = `{ system, ... }: { inner = derivation { name = "inner-1"; inherit system; builder = "/bin/sh"; args = [ ./file ]; }; }`

// remoteSet serves inner as an archive and counts requests.
func remoteSet(t *testing.T) (url string, requests *atomic.Int32) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range map[string]string{"set/default.nix": inner, "set/file": "a file"} {
		header := tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1, 0)}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	requests = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		_, _ = rw.Write(b.Bytes())
	}))
	t.Cleanup(server.Close)
	return server.URL + "/set.tar.gz", requests
}

// remoteRepository is inner in a git repository that everybody can read, in a directory that may be
// allowed with every Nix.
func remoteRepository(t *testing.T) (url, directory string) {
	t.Helper()
	needs.Tool(t, "git")
	dir := openDir(t, "repository")
	for name, content := range map[string]string{
		"default.nix": inner, "file": "a file", "unreleased": "", ".gitattributes": "unreleased export-ignore",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", dir + "/bare.git"},
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "default.nix", "file", "unreleased", ".gitattributes"},
		{"-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "one"},
		{"push", "--quiet", dir + "/bare.git", "main"},
		{"-C", "bare.git", "update-server-info"},
	} {
		command := exec.CommandContext(t.Context(), "git", args...)
		command.Dir = dir
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, output)
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir))) // which git's old protocol can do with
	t.Cleanup(server.Close)
	return server.URL + "/bare.git", server.URL + "/"
}

// fetchingSet makes a package set that an expression fetches.
func fetchingSet(t *testing.T, expression string) Source {
	t.Helper()
	dir := openDir(t, "fetching")
	text := "{ system, ... }: import (" + expression + `) { inherit system; } // { own = derivation { name = "own-1"; inherit system; builder = "/bin/sh"; }; }`
	if err := os.WriteFile(dir+"/default.nix", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Source{Path: dir}
}

func TestFetching(t *testing.T) {
	archive, requests := remoteSet(t)
	repository, directory := remoteRepository(t)
	for _, test := range []struct{ name, expression, allowed string }{
		{"an archive", `builtins.fetchTarball "` + archive + `"`, archive},
		{"a repository", `builtins.fetchGit { url = "` + repository + `"; ref = "main"; }`, directory},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := fetchingSet(t, test.expression)
			var refused *SourceError
			e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch")})
			if _, err := e.Evaluate(t.Context(), source, system, []string{"inner"}); !errors.As(err, &refused) ||
				!strings.Contains(err.Error(), "forbidden") {
				t.Errorf("where nothing may be fetched: %v, want it forbidden", err)
			}
			e, _ = newEvaluator(
				t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{"https://example.org"}},
			)
			if _, err := e.Evaluate(t.Context(), source, system, []string{"inner"}); !errors.As(err, &refused) ||
				!strings.Contains(err.Error(), "forbidden") {
				t.Errorf("where something else may be fetched: %v, want it forbidden", err)
			}

			target := openDir(t, "target")
			e, runner := newEvaluator(t, Options{
				ScratchDir: openDir(
					t, "scratch",
				), AllowedURIs: []string{test.allowed}, Store: "local?root=" + target, CPU: 20 * time.Second,
			})
			results, err := e.Evaluate(t.Context(), source, system, []string{"inner", "own", "none"})
			if err != nil {
				t.Fatal(err)
			}
			if results["inner"].Package == nil || results["own"].Package == nil || results["none"].Failure == nil {
				t.Fatalf("results are %+v", results)
			}
			fetched, started := requests.Load(), runner.Started()
			if _, err := e.Evaluate(t.Context(), source, system, []string{"inner"}); err != nil {
				t.Error(err)
			}
			if requests.Load() != fetched || runner.Started()-started != 1 {
				t.Errorf(
					"asked again: %d requests, %d processes, want 0 and 1", requests.Load()-fetched,
					runner.Started()-started,
				)
			}
			if _, err := e.Instantiate(t.Context(), source, system, []string{"inner"}); err != nil {
				t.Fatal(err)
			}
			for _, path := range []store.Path{results["inner"].Package.Derivation} {
				if _, err := os.Stat(target + string(path)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A repository that is allowed by its own URL can't be fetched with newer Nix. The registry says so
// with newer Nix alone.
func TestUselessForGit(t *testing.T) {
	repository, directory := remoteRepository(t)
	source := fetchingSet(t, `builtins.fetchGit { url = "`+repository+`"; ref = "main"; }`)
	for _, allowed := range [][]string{{repository}, {repository, directory}, {directory}} {
		e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: allowed, CPU: 20 * time.Second})
		useless, err := e.UselessForGit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Evaluate(t.Context(), source, system, []string{"inner"})
		if refused := err != nil && strings.Contains(err.Error(), "forbidden"); refused != (len(useless) > 0) {
			t.Errorf("with %q, %q are useless, and the set is %v", allowed, useless, err)
		} else if !refused && err != nil {
			t.Error(err)
		}
	}
}

// A set that does not fetch has no network, whatever it might fetch.
func TestNoNetworkUnlessNeeded(t *testing.T) {
	e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{"https://"}})
	source := testSet(t)
	if _, err := e.Evaluate(t.Context(), source, system, []string{"hello", "none"}); err != nil {
		t.Fatal(err)
	}
	persistent, err := e.persistent(source)
	if err != nil || persistent.exists() {
		t.Errorf("a store for what is fetched was made: %v", err)
	}
}

// A package whose source could not be fetched may be evaluated on another day.
func TestFailedFetchIsNotKept(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	source := writeSet(
		t, "default.nix",
		`{ system, ... }: { gone = import (fetchTarball "`+server.URL+`/x.tar.gz"); list = [ ]; }`,
	)
	e, _ := newEvaluator(t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{server.URL}})
	results, err := e.Evaluate(t.Context(), source, system, []string{"gone", "list"})
	if err != nil {
		t.Fatal(err)
	}
	if gone := results["gone"]; gone.Failure == nil || gone.Failure.Kind != Unfetched ||
		!strings.Contains(gone.Failure.Message, "404") ||
		gone.Cacheable() {
		t.Errorf("%+v is kept", gone.Failure)
	}
	var whole *SourceError
	set := writeSet(t, "default.nix", `import (fetchTarball "`+server.URL+`/x.tar.gz")`)
	if _, err := e.Evaluate(t.Context(), set, system, []string{"gone"}); !errors.As(err, &whole) || !whole.Unfetched {
		t.Errorf("a set that can't be fetched at all is %v", err)
	}
	if list := results["list"]; list.Failure == nil || !list.Cacheable() {
		t.Errorf("%+v is not kept", list)
	}
}

// burning is an expression that takes more than a second of a processor.
const burning = `(builtins.foldl' (sum: n: builtins.foldl' (a: b: a + b) sum (builtins.genList (x: n) 5000)) 0 (builtins.genList (x: x) 5000))`

// burningSet is a package set that fetches and has a package whose name takes long to compute.
func burningSet(t *testing.T, archive string) Source {
	t.Helper()
	source := writeSet(
		t,
		"default.nix",
		`{ system, ... }: let inner = (import (fetchTarball "`+archive+`") { inherit system; }).inner; in {
		inherit inner; slow = derivation { name = "slow-${builtins.seq inner.drvPath (toString `+burning+`)}"; inherit system; builder = "/bin/sh"; }; }`,
	)
	source.Shares = "the operator's"
	return source
}

// Fetching has time of its own, also after something was fetched. Evaluation alone keeps to its
// limit.
func TestFetchTime(t *testing.T) {
	one, _ := remoteSet(t)
	two, _ := remoteSet(t)
	e, _ := newEvaluator(
		t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{one, two}, CPU: time.Second},
	)
	evaluate := func(archive string) Result {
		t.Helper()
		results, err := e.Evaluate(t.Context(), burningSet(t, archive), system, []string{"slow"})
		if err != nil {
			t.Fatal(err)
		}
		return results["slow"]
	}
	if first := evaluate(one); first.Package == nil {
		t.Errorf("the first evaluation, which fetches: %+v", first.Failure)
	}
	if again := evaluate(one); again.Failure == nil || again.Failure.Kind != Limit {
		t.Errorf("another revision, which has nothing to fetch: %+v, %+v, want its limit", again.Package, again.Failure)
	}
	if moved := evaluate(two); moved.Package == nil {
		t.Errorf("another revision, which fetches something else: %+v", moved.Failure)
	}
}

// An evaluation stops waiting for a server that does not answer.
func TestSlowFetch(t *testing.T) {
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(end) })
	e, _ := newEvaluator(
		t,
		Options{
			ScratchDir:  openDir(t, "scratch"),
			AllowedURIs: []string{server.URL},
			CPU:         time.Second,
			FetchTime:   time.Second,
		},
	)
	set := writeSet(t, "default.nix", `import (fetchTarball "`+server.URL+`/x.tar.gz")`)
	var whole *SourceError
	if _, err := e.Evaluate(t.Context(), set, system, []string{"hello"}); !errors.As(err, &whole) || !whole.Unfetched ||
		!strings.Contains(whole.Message, "within 2s") {
		t.Errorf("a set whose server does not answer is %v", err)
	}
}

// The room that a set may fetch into is limited, and a store that has taken more is removed.
func TestTooMuchIsFetched(t *testing.T) {
	content := make([]byte, 8<<20)
	for i := range content {
		content[i] = byte(i * i >> 9)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range map[string][]byte{
		"set/default.nix": []byte(inner), "set/file": []byte("a file"), "set/large": content,
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b.Bytes()) }),
	)
	t.Cleanup(server.Close)
	var grown atomic.Int32
	options := Options{
		ScratchDir:  openDir(t, "scratch"),
		AllowedURIs: []string{server.URL},
		MaxBytes:    4 << 20,
		CPU:         20 * time.Second,
		Grown:       func() { grown.Add(1) },
	}
	e, _ := newEvaluator(t, options)
	set := burningSet(t, server.URL+"/set.tar.gz")
	results, err := e.Evaluate(t.Context(), set, system, []string{"slow"})
	told, limit := "", false // of the set or of the package, which may be evaluated when it is seen
	if fault := (*SourceError)(nil); errors.As(err, &fault) {
		told, limit = fault.Message, fault.Limit
	} else if failure := results["slow"].Failure; failure != nil {
		told, limit = failure.Message, failure.Kind == Limit
	}
	if !limit || !strings.Contains(told, "takes more room than 4MiB") {
		t.Errorf("a package whose set fetches 8 MiB is %+v, %v", results["slow"], err)
	}
	if items := e.Items(); len(items) > 0 || grown.Load() == 0 {
		t.Errorf(
			"%d stores are left in %s, and %d times something was said to have grown", len(items), e.Dir(),
			grown.Load(),
		)
	}
	options.MaxBytes = 0
	e, _ = newEvaluator(t, options)
	if results, err := e.Evaluate(t.Context(), set, system, []string{"slow"}); err != nil ||
		results["slow"].Package == nil {
		t.Errorf("with more room: %+v, %v", results["slow"].Failure, err)
	}
	if items := e.Items(); len(items) != 1 || !items[0].Remove() || len(e.Items()) > 0 {
		t.Errorf("%d stores are there, want one that can be removed", len(items))
	}
}

// Revisions of one origin fetch a thing once, also at the same time. Other sets have no part in it.
func TestSharedFetches(t *testing.T) {
	archive, requests := remoteSet(t)
	e, _ := newEvaluator(
		t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{archive}, CPU: 20 * time.Second},
	)
	for _, test := range []struct {
		name, shares string
		fetches      int32
	}{
		{"the operator's", "a", 1}, {"the same origin", "a", 0}, {"another origin", "b", 1}, {"a client's", "", 1},
		{"another client's", "", 1},
	} {
		before := requests.Load()
		source := fetchingSet(t, `builtins.fetchTarball "`+archive+`"`)
		source.Shares = test.shares
		var all errgroup.Group
		for _, name := range []string{"inner", "own"} {
			all.Go(func() error {
				results, err := e.Evaluate(t.Context(), source, system, []string{name})
				if err == nil && results[name].Package == nil {
					err = fmt.Errorf("%+v", results[name].Failure)
				}
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if got := requests.Load() - before; got != test.fetches {
			t.Errorf("%s: fetched %d times, want %d", test.name, got, test.fetches)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	owners := make(map[uint32]int)
	stores, err := filepath.Glob(e.options.ScratchDir + "/fetched/*")
	for _, dir := range stores {
		info, statErr := os.Stat(dir)
		if err = errors.Join(err, statErr); err == nil {
			owners[info.Sys().(*syscall.Stat_t).Uid]++
			if info.Mode().Perm() != 0o700 {
				t.Errorf("%s can be read by others: %v", dir, info.Mode())
			}
		}
	}
	if err != nil || !maps.Equal(owners, map[uint32]int{65533: 2, 65534: 2}) {
		t.Errorf("what was fetched belongs to %v, %v", owners, err)
	}
}

// The disk that fetched files take is bounded, and what an evaluation uses stays until it is over.
func TestFetchedIsRemoved(t *testing.T) {
	archive, requests := remoteSet(t)
	e, _ := newEvaluator(
		t, Options{ScratchDir: openDir(t, "scratch"), AllowedURIs: []string{archive}, CPU: 20 * time.Second},
	)
	evaluate := func(source Source) evalStore {
		t.Helper()
		if _, err := e.Evaluate(t.Context(), source, system, []string{"inner"}); err != nil {
			t.Fatal(err)
		}
		persistent, err := e.persistent(source)
		if err != nil {
			t.Fatal(err)
		}
		return persistent
	}
	set := func(shares string) Source {
		source := fetchingSet(t, `builtins.fetchTarball "`+archive+`"`)
		source.Shares = shares
		return source
	}
	shared, used, unused := evaluate(set("the operator's")), evaluate(set("")), evaluate(set(""))
	_, release, err := e.hold(used)
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	if err := errors.Join(
		os.Chtimes(used.cache, past, past), os.Chtimes(unused.cache, past, past),
		os.Chtimes(shared.cache, past, past),
	); err != nil {
		t.Fatal(err)
	}
	for range persistentKept {
		evaluate(set(""))
	}
	if !shared.exists() {
		t.Error("what clients chose has displaced the operator's")
	}
	if !used.exists() || unused.exists() {
		t.Errorf("of two old stores, the one that is used is there: %v, the other: %v", used.exists(), unused.exists())
	}
	release()
	evaluate(set(""))
	if used.exists() {
		t.Error("an old store is there though nobody uses it")
	}
	if left, err := os.ReadDir(e.options.ScratchDir + "/fetched"); err != nil || len(left) != persistentKept+1 {
		t.Errorf("%d stores are there, want %d: %v", len(left), persistentKept+1, err)
	}

	before := requests.Load()
	evaluate(set("one"))
	e.persistentBytes = 1
	for range weighedEvery - 1 {
		evaluate(set("one"))
	}
	if got := requests.Load() - before; got != 1 {
		t.Errorf("%d revisions fetched %d times, want once", weighedEvery, got)
	}
	evaluate(set("one"))
	if got := requests.Load() - before; got != 2 {
		t.Errorf("after %d revisions, a store that is too large was made anew %d times, want once", weighedEvery, got-1)
	}
}

// TestPinnedSets evaluates sets in the form of npins and niv: a list of sources, and expressions
// that fetch them.
func TestPinnedSets(t *testing.T) {
	archive, _ := remoteSet(t)
	repository, directory := remoteRepository(t)
	store := "local?root=" + t.TempDir()
	output, err := exec.CommandContext(t.Context(), "nix-prefetch-url", "--unpack", "--store", store, archive).Output()
	if err != nil {
		t.Fatal(err)
	}
	commit, err := exec.CommandContext(t.Context(), "git", "ls-remote", "--", repository, "refs/heads/main").Output()
	if err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer(
		"ARCHIVE", archive, "SHA256", strings.TrimSpace(string(output)), "REPOSITORY", repository, "COMMIT",
		string(commit[:40]),
	)
	const npins = `
let
  data = builtins.fromJSON (builtins.readFile ./sources.json);
  mkSource = name: spec: assert spec ? type; let
    path = if spec.type == "Git" then mkGit spec else builtins.fetchTarball { inherit (spec) url; sha256 = spec.hash; };
    envVar = builtins.getEnv "NPINS_OVERRIDE_${name}";
  in spec // { outPath = if envVar == "" then path else /. + envVar; };
  mkGit = { repository, revision, url ? null, hash, submodules ? false, ... }:
    if url != null && !submodules then builtins.fetchTarball { inherit url; sha256 = hash; }
    else builtins.fetchGit { inherit (repository) url; rev = revision; allRefs = true; inherit submodules; name = "source"; };
in assert data.version == 5; builtins.mapAttrs mkSource data.pins`
	const niv = `
let
  fetch_tarball = spec: let inherit (builtins) lessThan nixVersion fetchTarball; in
    if lessThan nixVersion "1.12" then fetchTarball { inherit (spec) url; } else fetchTarball { name = "source"; inherit (spec) url sha256; };
  hasNixpkgsPath = builtins.any (x: x.prefix == "nixpkgs") builtins.nixPath;
  sources = builtins.fromJSON (builtins.readFile ./sources.json);
in builtins.mapAttrs (name: spec: if builtins.hasAttr "outPath" spec then abort "outPath" else
  spec // { outPath = if spec.type == "tarball" then fetch_tarball spec else if hasNixpkgsPath then <nixpkgs> else abort spec.type; }) sources`
	for _, test := range []struct {
		name  string
		files map[string]string
	}{
		{"npins", map[string]string{
			"default.nix":       `{ system, ... }: let pins = import ./npins; in import pins.nixpkgs { inherit system; }`,
			"npins/default.nix": npins,
			"npins/sources.json": `{"version": 5, "pins": {"nixpkgs": {"type": "Channel", "name": "nixos-26.05", "url": "ARCHIVE", "hash": "SHA256"},
				"unused": {"type": "Channel", "name": "x", "url": "https://example.org/x.tar.gz", "hash": "SHA256"}}}`,
		}},
		{"npins with git", map[string]string{
			"default.nix":       `{ system, ... }: let pins = import ./npins; in import pins.nixpkgs { inherit system; }`,
			"npins/default.nix": npins,
			"npins/sources.json": `{"version": 5, "pins": {"nixpkgs": {"type": "Git", "repository": {"type": "Git", "url": "REPOSITORY"}, "branch": "main", "revision": "COMMIT",
				"url": null, "hash": "SHA256", "submodules": false}}}`,
		}},
		{"niv", map[string]string{
			"default.nix":      `{ system ? builtins.currentSystem, sources ? import ./nix/sources.nix, pkgs ? import sources.nixpkgs { inherit system; } }: pkgs`,
			"nix/sources.nix":  niv,
			"nix/sources.json": `{"nixpkgs": {"branch": "nixos-26.05", "type": "tarball", "url": "ARCHIVE", "sha256": "SHA256", "url_template": "https://example.org/<rev>.tar.gz"}}`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := make(map[string]string)
			for name, content := range test.files {
				files[name] = replace.Replace(content)
			}
			e, _ := newEvaluator(
				t,
				Options{
					ScratchDir:  openDir(t, "scratch"),
					AllowedURIs: []string{archive, directory},
					CPU:         20 * time.Second,
				},
			)
			results, err := e.Evaluate(t.Context(), Source{Path: flakeOf(t, files)}, system, []string{"inner"})
			if err != nil {
				t.Fatal(err)
			}
			if results["inner"].Package == nil {
				t.Errorf("%+v", results["inner"].Failure)
			}
		})
	}
}
