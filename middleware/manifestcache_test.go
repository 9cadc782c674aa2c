package middleware

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// Manifests are answered from memory only while the repository has them, and large ones never.
func TestCachedManifests(t *testing.T) {
	registry, err := storage.NewRegistry(t.Context(), inmemory.New(), storage.EnableDelete)
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string) distribution.ManifestService {
		named, err := reference.WithName(name)
		if err != nil {
			t.Fatal(err)
		}
		repo, err := registry.Repository(t.Context(), named)
		if err != nil {
			t.Fatal(err)
		}
		manifests, err := repo.Manifests(t.Context(), storage.SkipLayerVerification())
		if err != nil {
			t.Fatal(err)
		}
		return manifests
	}
	put := func(manifests distribution.ManifestService, note string) digest.Digest {
		text := fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":2},"layers":[],"annotations":{"note":%q}}`,
			v1.MediaTypeImageManifest, digest.FromString("{}"), note,
		)
		manifest, _, err := distribution.UnmarshalManifest(v1.MediaTypeImageManifest, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		dgst, err := manifests.Put(t.Context(), manifest)
		if err != nil {
			t.Fatal(err)
		}
		return dgst
	}
	memory := weighted.New[digest.Digest, distribution.Manifest](manifestCacheBytes)
	one, other := cachedManifests{open("one"), memory}, cachedManifests{open("other"), memory}
	small, large := put(one, "small"), put(one, strings.Repeat("large", cachedManifestBytes/5))
	for range 2 {
		for _, dgst := range []digest.Digest{small, large} {
			manifest, err := one.Get(t.Context(), dgst)
			if err != nil {
				t.Fatal(err)
			}
			if _, payload, err := manifest.Payload(); err != nil || digest.FromBytes(payload) != dgst {
				t.Errorf("Get(%s) is %s, %v", dgst, digest.FromBytes(payload), err)
			}
		}
	}
	if !memory.Contains(small) || memory.Contains(large) {
		t.Errorf("kept: the small one %t, the large one %t", memory.Contains(small), memory.Contains(large))
	}
	unknown := distribution.ErrManifestUnknownRevision{}
	if _, err := other.Get(t.Context(), small); !errors.As(err, &unknown) {
		t.Errorf("a repository without the manifest answers with %v", err)
	}
	if err := one.Delete(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Get(t.Context(), small); !errors.As(err, &unknown) {
		t.Errorf("after the manifest was deleted, Get = %v", err)
	}
}
