package imagestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// isBuilt asks a process that has served nothing.
func (s storing) isBuilt(t *testing.T, dgst digest.Digest) bool {
	t.Helper()
	built, err := s.restarted(t).IsBuiltPart(t.Context(), s.repo, dgst)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// TestIsBuilt: all that a built tag leads to was built, and nothing that a pushed one leads to. It
// does not matter whether the records of manifests are there.
func TestIsBuilt(t *testing.T) {
	s := newStoring(t, Options{})
	both, err := s.commit(t, []Tag{{Name: "both"}}, "one", "two")
	if err != nil {
		t.Fatal(err)
	}
	layer, err := s.repo.Blobs(t.Context()).Put(t.Context(), v1.MediaTypeImageLayerGzip, []byte("other"))
	if err != nil {
		t.Fatal(err)
	}
	pushed := s.image(layer.Digest, "pushed").Manifest
	manifests, err := s.repo.Manifests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		putConfig(t.Context(), s.repo, pushed), putManifest(t.Context(), manifests, pushed),
		s.repo.Tags(t.Context()).Tag(t.Context(), "pushed", v1.Descriptor{Digest: pushed.Digest}),
	); err != nil {
		t.Fatal(err)
	}
	parts := map[digest.Digest]bool{
		both.Manifest.Digest: true, pushed.Digest: false, digest.FromBytes(pushed.Config): false, layer.Digest: false,
		digest.FromString("nothing"): false,
	}
	for _, child := range both.Children {
		parts[child.Digest], parts[digest.FromBytes(child.Config)] = true, true
	}
	for part, want := range parts {
		if got := s.isBuilt(t, part); got != want {
			t.Errorf("%s is built: %t, want %t", part, got, want)
		}
		if got, err := s.restarted(t).IsBuiltManifest(t.Context(), s.repo, part); err != nil || got != want {
			t.Errorf("manifest %s is built: %t, %v, want %t", part, got, err, want)
		}
	}
	if tags, err := s.BuiltTags(t.Context(), s.repo); err != nil || !slices.Equal(tags, []string{"both"}) {
		t.Errorf("the built tags are %q, %v", tags, err)
	}
}

// TestTagsAreLookedAtOnce asks for what was not built, again and again. The tags are looked at once in
// walkMemory, and new ones when they come.
func TestTagsAreLookedAtOnce(t *testing.T) {
	s := newStoring(t, Options{})
	if _, err := s.commit(t, []Tag{{Name: "one"}, {Name: "two"}}, "first"); err != nil {
		t.Fatal(err)
	}
	files := &steppingDriver{StorageDriver: s.files}
	other := storingIn(t, files, Options{})
	ask := func(dgst digest.Digest) (built bool, calls int) {
		t.Helper()
		before := files.calls
		built, err := other.IsBuiltPart(t.Context(), other.repo, dgst)
		if err != nil {
			t.Fatal(err)
		}
		return built, files.calls - before
	}
	nothing := func(n int) digest.Digest { return digest.FromString(fmt.Sprint("nothing ", n)) }
	if built, calls := ask(nothing(0)); built || calls < 5 {
		t.Errorf("built: %t, by %d calls", built, calls)
	}
	for n := range 10 {
		if built, calls := ask(nothing(n)); built || calls != 1 {
			t.Errorf("built: %t, by %d calls, want the list of tags alone", built, calls)
		}
	}
	second, err := s.commit(t, []Tag{{Name: "three"}}, "second")
	if err != nil {
		t.Fatal(err)
	}
	if built, _ := ask(second.Manifest.Digest); !built {
		t.Error("a new tag is not looked at")
	}
	of, _ := other.vouched.known.Get("image")
	of.walked.since = time.Now().Add(-walkMemory - time.Second)
	if _, calls := ask(nothing(0)); calls < 4 {
		t.Errorf("the tags are not looked at again: %d calls", calls)
	}
	of.walked.since = time.Now().Add(time.Hour) // the clock was ahead
	if _, calls := ask(nothing(0)); calls < 4 {
		t.Errorf("the tags are not looked at after the clock was ahead: %d calls", calls)
	}
}

// TestListsAreRemembered lists tags again and again: they are looked at once in walkMemory, and new
// ones when they come. A list does not count as a walk.
func TestListsAreRemembered(t *testing.T) {
	s := newStoring(t, Options{})
	first, err := s.commit(t, []Tag{{Name: "one"}, {Name: "two"}}, "first")
	if err != nil {
		t.Fatal(err)
	}
	files := &steppingDriver{StorageDriver: s.files}
	other := storingIn(t, files, Options{})
	list := func() ([]string, int) {
		t.Helper()
		before := files.calls
		tags, err := other.BuiltTags(t.Context(), other.repo)
		if err != nil {
			t.Fatal(err)
		}
		return tags, files.calls - before
	}
	if tags, _ := list(); !slices.Equal(tags, []string{"one", "two"}) {
		t.Errorf("the tags are %q", tags)
	}
	if tags, calls := list(); !slices.Equal(tags, []string{"one", "two"}) || calls != 1 {
		t.Errorf("the tags are %q, by %d calls", tags, calls)
	}
	config := digest.FromBytes(first.Manifest.Config)
	if built, err := other.IsBuiltPart(t.Context(), other.repo, config); err != nil || !built {
		t.Errorf("what is listed is not found: %t, %v", built, err)
	}
	if _, err := s.commit(t, []Tag{{Name: "three"}}, "second"); err != nil {
		t.Fatal(err)
	}
	if tags, _ := list(); !slices.Equal(tags, []string{"one", "three", "two"}) {
		t.Errorf("the tags are %q", tags)
	}
}

// TestWalksEnd ends a question whose client leaves while another one is under way.
func TestWalksEnd(t *testing.T) {
	s := newStoring(t, Options{})
	release, _ := s.vouched.walks.Claim("image")
	defer release()
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := s.IsBuiltPart(ctx, s.repo, digest.FromString("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

// TestVouchedIsBounded tells of more than is kept. What is kept stays within its bound, and a walk
// whose findings were forgotten does not count.
func TestVouchedIsBounded(t *testing.T) {
	v := newVouched()
	part := func(n int) []v1.Descriptor {
		return []v1.Descriptor{{Digest: digest.FromString(fmt.Sprint("part ", n))}}
	}
	of, _ := v.begin("r", walkedOf, time.Now())
	for n := range vouchedKept {
		v.add("r", digest.FromString(fmt.Sprint(n)), part(n))
	}
	v.end("r", walkedOf, of, map[string]bool{"tag": true})
	if _, known := v.begin("r", walkedOf, time.Now()); len(known) != 0 {
		t.Errorf("%d tags count as looked at", len(known))
	}
	if last := vouchedKept - 1; !v.has("r", digest.FromString(fmt.Sprint(last))) || !v.has("r", part(last)[0].Digest) {
		t.Error("the last one is forgotten")
	}
	for n := range 2 * vouchedBytes / digestBytes / 1000 {
		for m := range 1000 {
			v.add(fmt.Sprint("repository ", n), digest.FromString(fmt.Sprint(m)), nil)
		}
	}
	if kept := v.known.Bytes(); kept > vouchedBytes {
		t.Errorf("%d bytes are kept, want %d", kept, vouchedBytes)
	}
	if v.has("r", part(vouchedKept - 1)[0].Digest) {
		t.Error("the repository that was not used for longest is kept")
	}
}

// TestTagsOfTheOperator are looked at first, however many there are.
func TestTagsOfTheOperator(t *testing.T) {
	s := newStoring(t, Options{Tags: []string{"latest"}})
	if _, err := s.commit(t, []Tag{{Name: "latest"}}, "first"); err != nil {
		t.Fatal(err)
	}
	for n := range maxWalkedTags {
		tag := fmt.Sprintf("a%d", n)
		of := v1.Descriptor{Digest: digest.FromString(tag)}
		if err := s.repo.Tags(t.Context()).Tag(t.Context(), tag, of); err != nil {
			t.Fatal(err)
		}
	}
	tags, err := s.tagsOf(t.Context(), s.repo)
	if err != nil || len(tags) != maxWalkedTags || tags[0] != "latest" {
		t.Errorf("%d tags are looked at, the first is %s, %v", len(tags), tags[0], err)
	}
}
