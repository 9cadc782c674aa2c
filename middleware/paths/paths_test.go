package paths

import (
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/manifest/ocischema"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Upstream keeps files where this package says, and nothing else that refers to a digest.
func TestUpstream(t *testing.T) {
	files := inmemory.New()
	registry, err := storage.NewRegistry(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	named, err := reference.WithName("a/b")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.Repository(t.Context(), named)
	if err != nil {
		t.Fatal(err)
	}
	config, err := repo.Blobs(t.Context()).Put(t.Context(), v1.MediaTypeImageConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Blobs(t.Context()).Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	manifest, err := ocischema.FromStruct(ocischema.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config,
		Layers: []v1.Descriptor{config},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := repo.Manifests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dgst, err := manifests.Put(t.Context(), manifest, distribution.WithTag("latest"))
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Tags(t.Context()).Tag(t.Context(), "latest", v1.Descriptor{Digest: dgst}); err != nil {
		t.Fatal(err)
	}

	type file struct {
		kind Kind
		dgst digest.Digest
	}
	want := map[string]file{
		BlobData(config.Digest):                                {BlobFile, config.Digest},
		BlobData(dgst):                                         {BlobFile, dgst},
		Link(Layer("a/b", config.Digest)):                      {LayerLink, config.Digest},
		Link(Revision("a/b", dgst)):                            {RevisionLink, dgst},
		TagCurrent("a/b", "latest"):                            {TagLink, ""},
		Link(TagIndex("a/b", "latest") + "/" + dgst.Encoded()): {TagEntry, dgst},
	}
	uploads := 0
	err = files.Walk(t.Context(), "/", func(info driver.FileInfo) error {
		if info.IsDir() {
			return nil
		}
		kind, digest := Parse(info.Path())
		expected, ok := want[info.Path()]
		switch {
		case ok && (file{kind, digest}) != expected:
			t.Errorf("%s is %v %s, want %v", info.Path(), kind, digest, expected)
		case !ok && kind == UploadBegin:
			uploads++
		case !ok && kind != Other:
			t.Errorf("%s is %v %s", info.Path(), kind, digest)
		}
		delete(want, info.Path())
		return nil
	})
	if err != nil || len(want) > 0 || uploads != 1 {
		t.Errorf("error %v, missing %v, %d uploads", err, want, uploads)
	}
}

// What is no digest is none, and names that look like upstream's are not taken for them.
func TestParseOthers(t *testing.T) {
	for _, name := range []string{
		"/", "/docker/registry/v2/blobs/sha256/aa/zz/data", "/docker/registry/v2/blobs/sha256/aa/data",
		"/docker/registry/v2/repositories/a/link", "/docker/registry/v2/repositories/a/_layers/sha256/aa/link",
		"/docker/registry/v2/repositories/a/_uploads/u/data", "/nix/v1/tags/aa/bb", "/other/_layers/sha256/aa/link",
	} {
		if kind, dgst := Parse(name); dgst != "" || kind == TagLink || kind == UploadBegin {
			t.Errorf("%s is %v %s", name, kind, dgst)
		}
	}
	if kind, _ := Parse(State + "links/x"); kind != PendingLinks {
		t.Errorf("a record of pending links is %v", kind)
	}
}
