package imagestore

import (
	"errors"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

func (s storing) reader(t *testing.T) Reader {
	t.Helper()
	manifests, err := s.repo.Manifests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return Reader{Name: s.repo.Named().Name(), Manifests: manifests, Blobs: s.repo.Blobs(t.Context())}
}

// restarted is the Store of another process.
func (s storing) restarted(t *testing.T) *Store {
	t.Helper()
	return New(s.files, s.links.namespace, Options{})
}

// check checks that a form is of a media type, is what its digest says, and that another process
// makes it again.
func (s storing) check(t *testing.T, made Made, mediaType string) (references []v1.Descriptor) {
	t.Helper()
	got, payload, err := made.Manifest.Payload()
	if err != nil || got != mediaType || digest.FromBytes(payload) != made.Digest {
		t.Errorf("%s is a %s, want a %s: %v\n%s", made.Digest, got, mediaType, err, payload)
	}
	again, ok, err := s.restarted(t).Again(t.Context(), s.reader(t), made.Digest)
	if err != nil || !ok || again.Digest != made.Digest {
		t.Errorf("%s is made again: %t, %s, %v", made.Digest, ok, again.Digest, err)
	}
	return made.Manifest.References()
}

func TestForms(t *testing.T) {
	s := newStoring(t, Options{})
	both, err := s.commit(t, []Tag{{Name: "both"}}, "one", "two")
	if err != nil {
		t.Fatal(err)
	}
	one := both.Children[0]
	form := func(of digest.Digest, form Form) Made {
		t.Helper()
		made, err := s.Make(t.Context(), s.reader(t), of, form)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	docker := form(one.Digest, Docker)
	s.check(t, docker, image.MediaTypeDockerManifest)

	index := s.check(t, form(one.Digest, Index), v1.MediaTypeImageIndex)
	if len(index) != 1 || index[0].Digest != one.Digest || index[0].Platform.Architecture != "arm64" {
		t.Errorf("the index of one has %+v", index)
	}
	list := s.check(t, form(one.Digest, List), image.MediaTypeDockerList)
	if len(list) != 1 || list[0].Digest != docker.Digest || list[0].Platform.Architecture != "arm64" {
		t.Errorf("the list of one has %+v", list)
	}
	list = s.check(t, form(both.Manifest.Digest, List), image.MediaTypeDockerList)
	if len(list) != 2 || list[0].Digest != docker.Digest || list[1].Platform.Architecture != "a1" {
		t.Fatalf("the list of two has %+v", list)
	}
	// What is in a list can be had by its digest.
	again, ok, err := s.restarted(t).Again(t.Context(), s.reader(t), list[1].Digest)
	if err != nil || !ok || again.Digest != list[1].Digest {
		t.Errorf("the second manifest in the list is made again: %t, %s, %v", ok, again.Digest, err)
	}
	for _, unfit := range []Form{Docker, Index} {
		if _, err := s.Make(t.Context(), s.reader(t), both.Manifest.Digest, unfit); err == nil {
			t.Errorf("an index has the form %s", unfit)
		}
	}
}

// A form is of its own repository, and goes with what it was made of. What is no form is none.
func TestFormsGo(t *testing.T) {
	s := newStoring(t, Options{})
	img, err := s.commit(t, []Tag{{Name: "latest"}}, "one")
	if err != nil {
		t.Fatal(err)
	}
	from := s.reader(t)
	docker, err := s.Make(t.Context(), from, img.Manifest.Digest, Docker)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := from
	elsewhere.Name = "another"
	for name, ask := range map[string]func() (Made, bool, error){
		"a form of another repository": func() (Made, bool, error) {
			return s.Again(t.Context(), elsewhere, docker.Digest)
		},
		"what is stored itself": func() (Made, bool, error) {
			return s.Again(t.Context(), from, img.Manifest.Digest)
		},
	} {
		if made, ok, err := ask(); ok || err != nil {
			t.Errorf("%s is made again: %s, %v", name, made.Digest, err)
		}
	}
	record := formRecord{Of: img.Manifest.Digest, Form: "of another version"}
	other := digest.FromString("other")
	if err := s.forms.Put(t.Context(), formKey(from.Name, other), record); err != nil {
		t.Fatal(err)
	}
	if made, ok, err := s.Again(t.Context(), from, other); ok || err != nil {
		t.Errorf("an unknown form is made: %s, %v", made.Digest, err)
	}
	record.Form = List
	if err := s.forms.Put(t.Context(), formKey(from.Name, other), record); err != nil {
		t.Fatal(err)
	}
	if made, ok, err := s.Again(t.Context(), from, other); ok || err != nil {
		t.Errorf("a form of another digest is made: %s, %v", made.Digest, err)
	}
	revisions := "/docker/registry/v2/repositories/image/_manifests/revisions"
	if err := s.files.Delete(t.Context(), revisions); err != nil {
		t.Fatal(err)
	}
	if made, ok, err := s.Again(t.Context(), from, docker.Digest); ok || err != nil {
		t.Errorf("a form of an image that was deleted is made: %s, %v", made.Digest, err)
	}
	if _, err := s.Make(
		t.Context(), from, img.Manifest.Digest, Docker,
	); !errors.As(err, new(distribution.ErrManifestUnknownRevision)) {
		t.Errorf("the error is %v", err)
	}
}

// Where nothing may or can be written, this process remembers. When it can be, it is at the next pull.
func TestFormsUnwritten(t *testing.T) {
	for name, readOnly := range map[string]bool{"in read-only mode": true, "a full disk": false} {
		t.Run(name, func(t *testing.T) {
			s := newStoring(t, Options{})
			img, err := s.commit(t, []Tag{{Name: "latest"}}, "one")
			if err != nil {
				t.Fatal(err)
			}
			s.options.ReadOnly, s.files.broken = readOnly, "/nix/v1/forms/"
			docker, err := s.Make(t.Context(), s.reader(t), img.Manifest.Digest, Docker)
			if err != nil {
				t.Fatal(err)
			}
			again, ok, err := s.Again(t.Context(), s.reader(t), docker.Digest)
			if err != nil || !ok || again.Digest != docker.Digest {
				t.Errorf("it is made again: %t, %s, %v", ok, again.Digest, err)
			}
			s.files.broken = ""
			if again, ok, err := s.restarted(t).Again(t.Context(), s.reader(t), docker.Digest); ok || err != nil {
				t.Errorf("another process makes it: %s, %v", again.Digest, err)
			}
			if _, err := s.Make(t.Context(), s.reader(t), img.Manifest.Digest, Docker); err != nil {
				t.Fatal(err)
			}
			_, ok, err = s.restarted(t).Again(t.Context(), s.reader(t), docker.Digest)
			if ok == readOnly || err != nil {
				t.Errorf("after another pull, another process makes it: %t, %v", ok, err)
			}
		})
	}
}
