package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// permutations are all orders of some names.
func permutations(names []string) (all [][]string) {
	if len(names) == 0 {
		return [][]string{nil}
	}
	for i, first := range names {
		rest := slices.Delete(slices.Clone(names), i, i+1)
		for _, others := range permutations(rest) {
			all = append(all, append([]string{first}, others...))
		}
	}
	return all
}

// repositories are those that the storage has a file of.
func (r *Registry) repositories(t *testing.T) (names []string) {
	t.Helper()
	root := filepath.Join(r.storage(), "docker", "registry", "v2", "repositories")
	for _, file := range files(t, root) {
		name, _, _ := strings.Cut(strings.TrimPrefix(file, root+"/"), "/_")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// tagsOf are all tags of a repository.
func (r *Registry) tagsOf(t *testing.T, name string) []string {
	t.Helper()
	tags, _ := r.tags(t, "/v2/"+name+"/tags/list")
	return tags
}

// TestPermutations pulls an image by all orders of its packages at once, and then by other
// spellings. It is built once, and nothing is stored for another spelling than the canonical one.
func TestPermutations(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	names := []string{"editor", "quick", "reader", "sleeps.s1", "writer"}
	const canonical = "editor/quick/reader/sleeps.s1/writer"
	var mu sync.Mutex // of digests
	digests := make(map[string]int)
	var all sync.WaitGroup
	for _, order := range permutations(names) {
		all.Go(func() {
			path := "/v2/" + strings.Join(order, "/") + "/manifests/latest"
			status, header, body, err := r.Get(t.Context(), path, v1.MediaTypeImageManifest)
			if err != nil || status != http.StatusOK {
				t.Errorf("%s: %d %s, %v", path, status, body, err)
			}
			mu.Lock()
			defer mu.Unlock()
			digests[header.Get("Docker-Content-Digest")]++
		})
	}
	all.Wait()
	if len(digests) != 1 || strings.Count(r.Log(), logBuilt) != 1 {
		t.Errorf("the digests are %v; %d builds", digests, strings.Count(r.Log(), logBuilt))
	}
	r.Linked(t)
	before := files(t, r.storage())
	for _, name := range []string{
		canonical, "writer/" + canonical, strings.Repeat("writer/", 12) + canonical + "/quick/quick",
		"writer/sleeps.s1/reader/quick/editor",
	} {
		image := r.Pull(t, name)
		if digests[image.Digest.String()] == 0 {
			t.Errorf("%s is %s", name, image.Digest)
		}
		r.CheckWhole(t, image)
		Exec(t, "crane", "validate", "--remote", r.Ref(name))
		Exec(t, "crane", "validate", "--remote", r.Ref(name+"@"+image.Digest.String()))
		if tags := r.tagsOf(t, name); len(tags) != 2 || tags[len(tags)-1] != "latest" {
			t.Errorf("the tags of %s are %q", name, tags)
		}
		status, _, _, err := r.Get(t.Context(), "/v2/"+name+"/blobs/"+digest.FromString("nothing").String())
		if err != nil || status != http.StatusNotFound {
			t.Errorf("nothing is answered with %d, %v", status, err)
		}
	}
	if after := files(t, r.storage()); !slices.Equal(after, before) {
		t.Errorf("the storage had %d files, has %d", len(before), len(after))
	}
	if stored := r.repositories(t); !slices.Equal(stored, []string{canonical}) {
		t.Errorf("the repositories are %q", stored)
	}
	if catalog := strings.Fields(Exec(t, "crane", "catalog", r.Addr)); !slices.Equal(catalog, []string{canonical}) {
		t.Errorf("the catalog is %q", catalog)
	}
}

// TestSpellingsOverReplicas asks one replica for a manifest and others, that have served nothing, for
// what it refers to: blobs, manifests of an index, other forms. The set is for two platforms.
func TestSpellingsOverReplicas(t *testing.T) {
	t.Parallel()
	settings := []string{
		"nix.packages.path=" + freshSet(t, "platforms"), `nix.platforms=["linux/amd64", "linux/arm64"]`,
	}
	r := StartRegistry(t, settings...)
	sharing := append(settings, "storage.filesystem.rootdirectory="+r.storage())
	const spelling = "both/both"
	index := r.form(t, spelling, "latest", v1.MediaTypeImageIndex, v1.MediaTypeImageIndex)
	docker := r.form(t, spelling, "latest", dockerManifest, dockerManifest)
	children := index.manifests(t)
	var manifest v1.Manifest
	if err := json.Unmarshal(docker.body, &manifest); err != nil {
		t.Fatal(err)
	}
	r.Linked(t)
	before := files(t, r.storage())
	for _, part := range []struct {
		name, path, accept string
	}{
		{"a layer", "blobs/" + manifest.Layers[0].Digest.String(), ""},
		{"the config", "blobs/" + manifest.Config.Digest.String(), ""},
		{"a manifest of the index", "manifests/" + children[1].Digest.String(), v1.MediaTypeImageManifest},
		{"the index", "manifests/" + index.digest.String(), v1.MediaTypeImageIndex},
		{"Docker's form", "manifests/" + docker.digest.String(), dockerManifest},
	} {
		cold := StartRegistry(t, sharing...)
		for _, name := range []string{spelling, "both/both/both"} {
			status, _, body, err := cold.Get(t.Context(), "/v2/"+name+"/"+part.path, part.accept)
			if want := part.path[strings.Index(part.path, "/")+1:]; err != nil || status != http.StatusOK ||
				digest.FromBytes(body).String() != want {
				t.Errorf("%s by %s from another replica: %d %.200s, %v", part.name, name, status, body, err)
			}
		}
		cold.Stop()
	}
	if after := files(t, r.storage()); !slices.Equal(after, before) {
		t.Errorf("the storage had %d files, has %d", len(before), len(after))
	}
}

// TestSpellingsNotify: a pull has the name that was asked for, and a build that of its repository.
// A client that waits is sent to the same URL.
func TestSpellingsNotify(t *testing.T) {
	t.Parallel()
	events := newListener(t)
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t), "nix.build.hold=1s", events.setting(t))
	const canonical, spelling = "quick/sleeps.s3", "sleeps.s3/quick"
	path := "/v2/" + spelling + "/manifests/latest"
	status, header, body, err := r.Get(t.Context(), path, v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusTemporaryRedirect ||
		header.Get("Location") != fmt.Sprintf("http://%s%s?hold=1", r.Addr, path) {
		t.Errorf("a client that waits is answered with %d %v %s, %v", status, header, body, err)
	}
	image := r.Pull(t, spelling)
	r.CheckWhole(t, image)
	for _, want := range []event{
		{"push", canonical, "latest", image.Digest}, {"pull", spelling, "latest", image.Digest},
		{"pull", spelling, "", image.Layers[0].Digest},
	} {
		Eventually(t, commandTime, fmt.Sprint(want), func() bool { return events.has(want) })
	}
}

// TestBuildSpelling builds by the command. The image has the name that was asked for, and is in the
// canonical repository.
func TestBuildSpelling(t *testing.T) {
	t.Parallel()
	r := NewRegistry(t, "nix.packages.path="+FreshPackages(t))
	var digests []string
	for i, how := range []string{"built", "unchanged"} {
		name := []string{"reader/quick", "quick/reader/reader"}[i]
		stdout, stderr, err := r.nix("build", name)
		fields := strings.Fields(stdout)
		if err != nil || len(fields) != 3 || fields[0] != name+":latest" || fields[2] != how {
			t.Fatalf("%s: %q %s, %v", name, stdout, stderr, err)
		}
		digests = append(digests, fields[1])
	}
	if stored := r.repositories(t); digests[0] != digests[1] || !slices.Equal(stored, []string{"quick/reader"}) {
		t.Errorf("the digests are %q, the repositories %q", digests, stored)
	}
}
