package middleware

import (
	"context"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

const (
	// manifestCacheBytes bounds what manifests take in memory. One of 94 layers takes 20 KB, and as
	// much again when parsed.
	manifestCacheBytes = 10 << 20
	// cachedManifestBytes is how large a manifest may be to be kept.
	cachedManifestBytes = 64 << 10
)

// cachedManifests answers with manifests that were read before, as long as the repository has them.
// That saves the parsing, and one of the three calls of the storage that follow one another once a
// tag is looked up. It is safe for concurrent use, as nobody changes a manifest.
type cachedManifests struct {
	distribution.ManifestService
	cache *weighted.Cache[digest.Digest, distribution.Manifest]
}

// Get implements distribution.ManifestService.
func (m cachedManifests) Get(
	ctx context.Context, dgst digest.Digest, options ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	if manifest, ok := m.cache.Get(dgst); ok {
		if exists, err := m.Exists(ctx, dgst); exists && err == nil {
			return manifest, nil
		}
	}
	manifest, err := m.ManifestService.Get(ctx, dgst, options...)
	if err != nil {
		return nil, err
	}
	if _, payload, err := manifest.Payload(); err == nil && len(payload) <= cachedManifestBytes {
		m.cache.Add(dgst, manifest, 2*len(payload))
	}
	return manifest, nil
}
