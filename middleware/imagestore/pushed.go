package imagestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// pushSlack is how long before a commit a push may have begun that is still under way. It is also
// how far the clocks of the storage and of this machine may be apart.
const pushSlack = time.Hour

// restorePushed gives a tag back to what was pushed under it while an image was committed since
// begun. The registry writes a tag in two steps, of a push and of a commit alike: an entry in the
// index of all manifests that the tag ever pointed to, and then where it points to. So there are two
// cases. If the push has its entry by now, it is found here, whatever came of its second step. If
// not, its second step is yet to come, and is later than the commit's.
//
// Manifests that were built for the tag have a record, and those that were pushed have none.
func (s *Store) restorePushed(
	ctx context.Context, repo distribution.Repository, tag string, built digest.Digest, begun time.Time,
) error {
	entries, err := s.tagged(ctx, repo, tag)
	if err != nil || len(entries) < 2 { // nearly always, there is the built one alone
		return err
	}
	keys := make([]string, 0, len(entries))
	for manifest := range entries {
		keys = append(keys, recordKey(repo, tag, manifest))
	}
	records, err := s.records.GetAll(ctx, keys)
	if err != nil {
		return err
	}
	var pushed digest.Digest
	last := begun.Add(-pushSlack)
	for manifest, entry := range entries {
		if _, ok := records[recordKey(repo, tag, manifest)]; ok || manifest == built {
			continue
		}
		info, err := s.state.driver.Stat(ctx, paths.Link(entry))
		if errors.As(err, new(driver.PathNotFoundError)) {
			continue
		}
		if err != nil {
			return err
		}
		if at := info.ModTime(); at.After(last) {
			pushed, last = manifest, at
		}
	}
	if pushed == "" {
		return nil
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return err
	}
	if there, err := manifests.Exists(ctx, pushed); err != nil || !there {
		return err
	}
	logrus.Infof("nix: %s:%s was pushed while it was built, and stays what was pushed", repo.Named().Name(), tag)
	return repo.Tags(ctx).Tag(ctx, tag, v1.Descriptor{Digest: pushed})
}

// tagged returns the manifests that a tag ever pointed to, and the directories of their entries.
func (s *Store) tagged(
	ctx context.Context, repo distribution.Repository, tag string,
) (map[digest.Digest]string, error) {
	names, err := s.state.driver.List(ctx, paths.TagIndex(repo.Named().Name(), tag))
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil, nil // the tag was deleted meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("looking for pushes of %s:%s: %w", repo.Named().Name(), tag, err)
	}
	entries := make(map[digest.Digest]string, len(names))
	for _, name := range names {
		if manifest, ok := paths.DigestOf(name); ok {
			entries[manifest] = name
		}
	}
	return entries, nil
}
