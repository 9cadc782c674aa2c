package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestNixPath serves a set that is made on top of <nixpkgs>, a channel that moves. Revisions are of
// both.
func TestNixPath(t *testing.T) {
	t.Parallel()
	fresh := FreshPackages(t)
	mirror := serveChannel(t, fresh, strings.Repeat("a", 40))
	mirror.prepare = func(revision string) { Write(t, filepath.Join(fresh, "text"), revision) }

	packages := Dir(t)
	Write(
		t, filepath.Join(packages, "default.nix"),
		`{ pkgs ? import <nixpkgs> { } }: { inherit (pkgs) quick sleeps; }`,
	)
	settings := []string{"nix.refresh=1ns"}
	without := StartRegistry(t, append(settings, "nix.packages.path="+packages)...)
	status, _, body, err := without.Get(t.Context(), "/v2/quick/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusForbidden ||
		!strings.Contains(string(body), "packages.nixpath of this registry can say what it is") {
		t.Errorf("without packages.nixpath, the answer is %d %s, %v", status, body, err)
	}

	r := StartRegistry(t, append(
		settings,
		fmt.Sprintf(
			`nix.packages={"path": %q, "nixpath": {"nixpkgs": {"channel": "nixos-26.05"}}, "channels": %q, "archives": %q}`,
			packages, mirror.url, mirror.url,
		),
	)...)
	first := r.PullTag(t, "quick", "latest")
	tag := first.Annotations[v1.AnnotationRevision]
	if again := r.PullTag(t, "quick", tag); again.Digest != first.Digest {
		t.Errorf("the tag %s is %s, want %s", tag, again.Digest, first.Digest)
	}
	r.CheckWhole(t, first)
	programs := r.Programs()
	if r.PullTag(t, "quick", "latest").Digest != first.Digest || len(r.Programs()) != len(programs) {
		t.Error("nothing has moved, and there was something to do")
	}

	mirror.moveTo(strings.Repeat("b", 40))
	second := r.PullTag(t, "quick", "latest")
	set, _, _ := strings.Cut(tag, "-")
	if moved := second.Annotations[v1.AnnotationRevision]; second.Digest == first.Digest || moved == tag ||
		!strings.HasPrefix(moved, set+"-") {
		t.Errorf("after <nixpkgs> has moved, the revision is %s, was %s", moved, tag)
	}
	if bare := r.PullTag(t, "quick", set); bare.Digest != second.Digest {
		t.Error("a revision of the set alone is not with the <nixpkgs> of now")
	}
	if old := r.PullTag(t, "quick", tag); old.Digest != first.Digest {
		t.Error("the revision with the <nixpkgs> that it had is another")
	}
	// Another image of that revision has to be built, by another process.
	r.Stop()
	r.Start()
	if old := r.PullTag(t, "sleeps.s0", tag); old.Annotations[v1.AnnotationRevision] != tag ||
		!strings.Contains(old.Annotations["io.github.nixery-registry.variant"], strings.Repeat("a", 40)) {
		t.Errorf("another image of the old revision is of %v", old.Annotations)
	}
	for _, tag := range []string{set + "-000000000000", strings.Repeat("0", 64) + tag[len(set):]} {
		status, _, body, err := r.Get(t.Context(), "/v2/quick/manifests/"+tag, v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusNotFound {
			t.Errorf("tag %q is answered with %d %s, %v", tag, status, body, err)
		}
	}
}
