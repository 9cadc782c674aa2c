package middleware

import (
	"context"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// What is kept of manifests in memory, in bytes, and none that is larger. One of 94 layers is 20
// KB, and as much again when parsed.
const (
	manifestsKept    = 10 << 20
	keptManifestSize = 64 << 10
)

// keptManifests answers with manifests that were read before, as long as the repository has them.
// That saves the storage a call, one of three that wait for each other once a tag is looked up, and
// the registry the parsing. It is safe for concurrent use, as manifests are not changed.
type keptManifests struct {
	distribution.ManifestService
	kept *weighted.Cache[digest.Digest, distribution.Manifest]
}

// Get implements distribution.ManifestService.
func (m keptManifests) Get(
	ctx context.Context, dgst digest.Digest, options ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	if manifest, ok := m.kept.Get(dgst); ok {
		if exists, err := m.Exists(ctx, dgst); exists && err == nil {
			return manifest, nil
		}
	}
	manifest, err := m.ManifestService.Get(ctx, dgst, options...)
	if err != nil {
		return nil, err
	}
	if _, payload, err := manifest.Payload(); err == nil && len(payload) <= keptManifestSize {
		m.kept.Add(dgst, manifest, 2*len(payload))
	}
	return manifest, nil
}
