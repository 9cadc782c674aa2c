package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// TestSpellingsOfOlderVersions takes a storage in which images were built for another spelling, as
// older versions did. The canonical repository answers. What was pinned by its digest is there, and so
// is the image of a revision that can't be had any more.
func TestSpellingsOfOlderVersions(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	packages := FreshPackages(t)
	r := StartRegistry(t, "nix.packages.path="+packages)
	old := r.Pull(t, canonical)
	revision := r.tagsOf(t, canonical)[0]
	r.Linked(t)
	r.Stop()
	for _, tag := range []string{"latest", revision} {
		digest := old.Digest.String()
		r.moveRecord(t, "tags", []string{canonical, tag, digest}, []string{spelling, tag, digest})
	}
	// Older versions had no such records.
	if err := os.RemoveAll(filepath.Join(r.storage(), "nix", "v1", "made")); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(r.storage(), "docker", "registry", "v2", "repositories")
	if err := os.MkdirAll(filepath.Join(root, "reader"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, canonical), filepath.Join(root, spelling)); err != nil {
		t.Fatal(err)
	}
	was := Read(t, filepath.Join(packages, "text"))
	Write(t, filepath.Join(packages, "text"), "changed")
	reconfigure(t, r, "storage.maintenance.readonly.enabled=true")
	r.Start()
	if got := r.Pull(t, spelling); got.Digest != old.Digest {
		t.Errorf("in read-only mode it is %s, want the old %s", got.Digest, old.Digest)
	}
	r.Stop()
	reconfigure(t, r, "storage.maintenance.readonly.enabled=false")
	r.Start()
	for _, reference := range []string{revision, old.Digest.String()} {
		path := "/v2/" + spelling + "/manifests/" + reference
		status, header, body, err := r.Get(t.Context(), path, v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusOK || header.Get("Docker-Content-Digest") != old.Digest.String() {
			t.Errorf("%s is answered with %d %s, %v", reference, status, body, err)
		}
	}
	r.CheckWhole(t, Image{Name: spelling, Manifest: old.Manifest})
	before := files(t, filepath.Join(root, spelling))
	for _, text := range []string{"changed", was} {
		Write(t, filepath.Join(packages, "text"), text)
		now := r.Pull(t, spelling)
		if other := r.Pull(t, canonical); other.Digest != now.Digest || (now.Digest == old.Digest) != (text == was) {
			t.Errorf("it is %s, and %s by the canonical name; the old one is %s", now.Digest, other.Digest, old.Digest)
		}
	}
	if after := files(t, filepath.Join(root, spelling)); !slices.Equal(after, before) {
		t.Errorf("the old repository had %d files, has %d", len(before), len(after))
	}
}

// moveRecord gives a record another key.
func (r *Registry) moveRecord(t *testing.T, kind string, from, to []string) {
	t.Helper()
	file := func(parts []string) string {
		key := records.Key(parts...)
		return filepath.Join(r.storage(), "nix", "v1", kind, key[:2], key)
	}
	if err := os.MkdirAll(filepath.Dir(file(to)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file(from), file(to)); err != nil {
		t.Fatal(err)
	}
}
