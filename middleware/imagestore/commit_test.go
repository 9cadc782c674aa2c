package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/image"
)

// storing is a Store and its repository image.
type storing struct {
	*Store
	files *brokenDriver
	repo  distribution.Repository
}

func newStoring(t *testing.T, options Options) storing {
	t.Helper()
	files := &brokenDriver{StorageDriver: inmemory.New()}
	s := storingIn(t, files, options)
	s.files = files
	return s
}

func storingIn(t *testing.T, files driver.StorageDriver, options Options) storing {
	t.Helper()
	registry, err := storage.NewRegistry(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	named, err := reference.WithName("image")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.Repository(t.Context(), named)
	if err != nil {
		t.Fatal(err)
	}
	return storing{Store: New(files, registry, options), repo: repo}
}

// image has one layer, and an index if there are several notes, one for each platform.
func (s storing) image(layer digest.Digest, notes ...string) image.Image {
	img := image.Image{Source: "the set", Revision: "r1", NixVersion: "2.0"}
	for _, note := range notes {
		config := fmt.Appendf(nil, `{"note":%q,"os":"linux","architecture":"arm64"}`, note)
		child := image.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config}
		child.Payload = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,`+
			`"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":5}]}`,
			child.MediaType, v1.MediaTypeImageConfig, digest.FromBytes(config), len(config),
			v1.MediaTypeImageLayerGzip, layer)
		child.Digest = digest.FromBytes(child.Payload)
		img.Children = append(img.Children, child)
	}
	if len(img.Children) == 1 {
		img.Manifest, img.Children = img.Children[0], nil
		return img
	}
	entries := ""
	for i, child := range img.Children {
		entries += fmt.Sprintf(`,{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"a%d"}}`,
			child.MediaType, child.Digest, len(child.Payload), i)
	}
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, v1.MediaTypeImageIndex, entries[1:])
	img.Manifest = image.Manifest{
		MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(index), Payload: index,
	}
	return img
}

// commit uploads the one layer of an image of those notes, and commits it.
func (s storing) commit(t *testing.T, tags []Tag, notes ...string) (image.Image, error) {
	t.Helper()
	into := s.upload(t)
	defer into.Close()
	img := s.image(theLayer, notes...)
	return img, s.Commit(t.Context(), into, img, tags)
}

// theLayer is that of all images here.
var theLayer = digest.FromString("layer")

// upload begins an image with the layer.
func (s storing) upload(t *testing.T) *Writer {
	t.Helper()
	into := s.Writer(s.repo)
	err := into.Upload(t.Context(), func(w io.Writer) (digest.Digest, error) {
		_, err := io.WriteString(w, "layer")
		return theLayer, err
	}, func(_ context.Context, err error) error { return err })
	if err != nil {
		t.Fatal(err)
	}
	return into
}

func (s storing) lookUp(t *testing.T, tag string) Image {
	t.Helper()
	image, err := s.LookUp(t.Context(), s.repo, tag)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// A tag tells what it has: nothing, a built image, or a pushed one, which stays. A tag that keeps
// its image keeps it.
func TestCommit(t *testing.T) {
	s := newStoring(t, Options{Form: "a form"})
	if got := s.lookUp(t, "latest"); got.Digest != "" || got.Pushed {
		t.Errorf("at first, latest is %+v", got)
	}
	keeps := func(Image) bool { return true }
	first, err := s.commit(t, []Tag{{Name: "latest"}, {Name: "r1", Keeps: keeps}}, "first")
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"latest", "r1"} {
		got := s.lookUp(t, tag)
		if got.Digest != first.Manifest.Digest || got.Pushed || got.Source != "the set" || got.Revision != "r1" ||
			got.Nix != "2.0" || got.Form != "a form" || got.Index {
			t.Errorf("%s is %+v", tag, got)
		}
	}
	second, err := s.commit(t, []Tag{{Name: "latest"}, {Name: "r1", Keeps: keeps}}, "second", "of two platforms")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.lookUp(t, "latest"); got.Digest != second.Manifest.Digest || !got.Index {
		t.Errorf("latest is %+v, want the second image", got)
	}
	if got := s.lookUp(t, "r1"); got.Digest != first.Manifest.Digest {
		t.Errorf("r1 is %+v, want the first image", got)
	}
	tags := s.repo.Tags(t.Context())
	if err := tags.Tag(t.Context(), "pushed", v1.Descriptor{Digest: first.Manifest.Digest}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.commit(t, []Tag{{Name: "pushed"}}, "second", "of two platforms"); err != nil {
		t.Fatal(err)
	}
	if got := s.lookUp(t, "pushed"); got.Digest != first.Manifest.Digest || !got.Pushed {
		t.Errorf("pushed is %+v, want the first image", got)
	}
}

// An image of which something can't be stored gets no tag.
func TestCommitFails(t *testing.T) {
	for _, broken := range []string{
		"/_manifests/", "/nix/v1/tags/", "/blobs/sha256/",
	} {
		t.Run(broken, func(t *testing.T) {
			s := newStoring(t, Options{})
			s.files.broken = broken
			if _, err := s.commit(t, []Tag{{Name: "latest"}, {Name: "r1"}}, "first"); !errors.Is(err, errBroken) {
				t.Errorf("the error is %v", err)
			}
			s.files.broken = ""
			for _, tag := range []string{"latest", "r1"} {
				if got := s.lookUp(t, tag); got.Digest != "" {
					t.Errorf("%s is %+v", tag, got)
				}
			}
			if len(s.links.commits.underWay) > 0 {
				t.Error("the commit is still under way")
			}
		})
	}
}
