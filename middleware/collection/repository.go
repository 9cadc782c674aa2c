package collection

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// atOnce is how many calls of the storage a run makes at a time.
const atOnce = 16

// A reader reads what a storage has of repositories, past all caches. It is safe for concurrent use.
type reader struct {
	storage driver.StorageDriver
	// built tells which of some manifests of a repository Nix has built.
	built func(ctx context.Context, repository string, manifests []digest.Digest) (map[digest.Digest]bool, error)
}

// each calls do for each repository, also for those that have no manifest yet, one after the other.
func (r reader) each(ctx context.Context, do func(repository string) error) error {
	last := ""
	err := r.storage.Walk(ctx, paths.Repositories, func(file driver.FileInfo) error {
		base := path.Base(file.Path())
		if !file.IsDir() || !strings.HasPrefix(base, "_") {
			return ctx.Err()
		}
		repository := strings.TrimPrefix(path.Dir(file.Path()), paths.Repositories+"/")
		if repository != last && (base == "_layers" || base == "_manifests") {
			last = repository
			if err := do(repository); err != nil {
				return err
			}
		}
		return driver.ErrSkipDir
	})
	if isGone(err) {
		return nil
	}
	return err
}

// candidates finds the manifests of a repository that were built and that nothing leads to, and the
// blobs that nothing else in the repository refers to.
func (r reader) candidates(ctx context.Context, repository string) (candidates, error) {
	revisions, err := r.digests(ctx, paths.Revisions(repository))
	if err != nil || len(revisions) == 0 {
		return candidates{}, err
	}
	built, err := r.built(ctx, repository, revisions)
	if err != nil {
		return candidates{}, err
	}
	roots, err := r.tagged(ctx, repository)
	if err != nil {
		return candidates{}, err
	}
	leads := make(set)
	for _, manifest := range roots {
		leads.add(manifest)
	}
	leaves := make(set)
	for _, manifest := range revisions {
		switch {
		case !built[manifest]:
			roots = append(roots, manifest)
		case !leads.has(manifest):
			leaves.add(manifest)
		}
	}
	if len(leaves) == 0 {
		return candidates{}, nil
	}
	kept := make(set)
	if err := r.follow(ctx, roots, leaves, func(dgst digest.Digest) { kept.add(dgst) }); err != nil {
		return candidates{}, err
	}
	var found candidates
	parts := make(map[digest.Digest]bool)
	for _, manifest := range revisions {
		if !leaves.has(manifest) {
			continue
		}
		found.Manifests = append(found.Manifests, manifest)
		of, err := r.parts(ctx, manifest)
		if err != nil {
			return candidates{}, err
		}
		for _, part := range of {
			if !kept.has(part) && !leaves.has(part) {
				parts[part] = true
			}
		}
	}
	for part := range parts {
		found.Layers = append(found.Layers, part)
	}
	return found, nil
}

// kept calls keep for all that a repository needs, or that somebody has stored there since a time:
// all but its candidates, and those that anything leads to after all.
func (r reader) kept(
	ctx context.Context, repository string, of candidates, since time.Time, keep func(digest.Digest),
) error {
	revisions, err := r.digests(ctx, paths.Revisions(repository))
	if err != nil {
		return err
	}
	roots, err := r.tagged(ctx, repository)
	if err != nil {
		return err
	}
	leaves := make(set)
	for _, manifest := range of.Manifests {
		leaves.add(manifest)
	}
	for _, manifest := range revisions {
		stays := !leaves.has(manifest)
		if !stays {
			if stays, err = r.isSince(ctx, paths.Revision(repository, manifest), since); err != nil {
				return err
			}
		}
		if stays {
			roots = append(roots, manifest)
		}
	}
	if err := r.follow(ctx, roots, leaves, keep); err != nil {
		return err
	}
	return r.keptLinks(ctx, repository, of.Layers, since, keep)
}

// keptLinks calls keep for blobs that are linked for no candidate, and for those that somebody has
// linked since a time.
func (r reader) keptLinks(
	ctx context.Context, repository string, of []digest.Digest, since time.Time, keep func(digest.Digest),
) error {
	explained := make(set)
	for _, layer := range of {
		explained.add(layer)
	}
	algorithms, err := listed(ctx, r.storage, paths.Layers(repository))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	for _, algorithm := range algorithms {
		dir := path.Join(paths.Layers(repository), algorithm)
		names, err := listed(ctx, r.storage, dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			all.Go(func() error {
				linked, stays := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), name), true
				var err error
				switch {
				case linked.Algorithm() != digest.SHA256: // it is another name of what it links
					linked, err = r.link(ctx, paths.Link(path.Join(dir, name)))
				case explained.has(linked):
					stays, err = r.isSince(ctx, path.Join(dir, name), since)
				}
				if err == nil && stays && linked != "" {
					mu.Lock()
					defer mu.Unlock()
					keep(linked)
				}
				return err
			})
		}
	}
	return all.Wait()
}

// isSince tells whether a link was written after a time.
func (r reader) isSince(ctx context.Context, dir string, since time.Time) (bool, error) {
	info, err := r.storage.Stat(ctx, paths.Link(dir))
	if isGone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at %s: %w", dir, err)
	}
	return info.ModTime().After(since), nil
}

// attached matches tags that belong to the manifest of a digest: signatures, referrers, ….
var attached = regexp.MustCompile(`^sha256-([0-9a-f]{64})`)

// tagged has the manifests that tags of a repository lead to, and those that tags belong to.
func (r reader) tagged(ctx context.Context, repository string) ([]digest.Digest, error) {
	tags, err := listed(ctx, r.storage, paths.Tags(repository))
	if err != nil {
		return nil, err
	}
	found := make(map[digest.Digest]bool)
	var mu sync.Mutex
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	for _, tag := range tags {
		all.Go(func() error {
			manifest, err := r.link(ctx, paths.TagCurrent(repository, tag))
			mu.Lock()
			defer mu.Unlock()
			if manifest != "" {
				found[manifest] = true
			}
			if to := attached.FindStringSubmatch(tag); to != nil {
				found[digest.NewDigestFromEncoded(digest.SHA256, to[1])] = true
			}
			return err
		})
	}
	err = all.Wait()
	manifests := make([]digest.Digest, 0, len(found))
	for manifest := range found {
		manifests = append(manifests, manifest)
	}
	return manifests, err
}

// link reads a link. It is empty if there is none.
func (r reader) link(ctx context.Context, file string) (digest.Digest, error) {
	content, err := r.storage.GetContent(ctx, file)
	if isGone(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	dgst, err := digest.Parse(string(content))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	return dgst, nil
}

// follow calls keep, one call at a time, for manifests, for all digests that they name in whatever
// way, and so on for those of them that are leaves. It removes these from the leaves.
func (r reader) follow(
	ctx context.Context, manifests []digest.Digest, leaves set, keep func(digest.Digest),
) error {
	for len(manifests) > 0 {
		var more []digest.Digest
		var mu sync.Mutex
		all, ctx := errgroup.WithContext(ctx)
		all.SetLimit(atOnce)
		for _, manifest := range manifests {
			if k, ok := keyOf(manifest); ok {
				mu.Lock()
				delete(leaves, k)
				mu.Unlock()
			}
			all.Go(func() error {
				content, err := r.manifest(ctx, manifest)
				mu.Lock()
				defer mu.Unlock()
				keep(manifest)
				for _, dgst := range namedIn(content) {
					keep(dgst)
					if leaves.has(dgst) {
						k, _ := keyOf(dgst)
						delete(leaves, k)
						more = append(more, dgst)
					}
				}
				return err
			})
		}
		if err := all.Wait(); err != nil {
			return err
		}
		manifests = more
	}
	return nil
}

// maxManifest is what upstream takes for a manifest.
const maxManifest = 4 << 20

// manifest reads a manifest. One that the storage has lost is empty: it leads to nothing any more.
func (r reader) manifest(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	file := paths.BlobData(dgst)
	info, err := r.storage.Stat(ctx, file)
	if err == nil && info.Size() > maxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, which is too much for one", dgst, info.Size())
	}
	var content []byte
	if err == nil {
		content, err = r.storage.GetContent(ctx, file)
	}
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", dgst, err)
	}
	return content, nil
}

// parts has what a manifest that was built is made of.
func (r reader) parts(ctx context.Context, dgst digest.Digest) ([]digest.Digest, error) {
	content, err := r.manifest(ctx, dgst)
	if err != nil || content == nil {
		return nil, err
	}
	type part struct {
		Digest digest.Digest `json:"digest"`
	}
	var manifest struct {
		Config    part   `json:"config"`
		Layers    []part `json:"layers"`
		Manifests []part `json:"manifests"`
	}
	if err := json.Unmarshal(content, &manifest); err != nil {
		logrus.WithError(err).Warnf("nix: manifest %s is damaged: what it is made of is not collected", dgst)
		return nil, nil
	}
	var all []digest.Digest
	for _, part := range slices.Concat([]part{manifest.Config}, manifest.Layers, manifest.Manifests) {
		if _, ok := keyOf(part.Digest); ok {
			all = append(all, part.Digest)
		}
	}
	return all, nil
}

// digests lists the digests of SHA-256 that directories are named after.
func (r reader) digests(ctx context.Context, dir string) ([]digest.Digest, error) {
	names, err := listed(ctx, r.storage, dir)
	var all []digest.Digest
	for _, name := range names {
		if dgst, ok := paths.DigestOf(name); ok {
			all = append(all, dgst)
		}
	}
	return all, err
}
