package imagestore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// untaggedKind is where tags go that are being removed, on storage that has directories.
const untaggedKind = "untagged"

// Untag removes a tag that points to a built image. Is is the image's digest; empty: a tag that
// points to nothing any more. It returns false if the tag stays: because it points elsewhere, because
// something was pushed under it once, or because somebody has tagged anything with it within the last
// hour (pushSlack), be it meanwhile.
//
// What is recorded of the tag is written anew, and so stays for a later Sweep: whoever has just read
// where the tag points to must still find that the image was built.
//
// Drivers can't delete a file only if it is as it was read, and upstream's Untag deletes whatever the
// tag is then. So what is deleted here is, one file after the other, what nobody but this has reason
// to write. Where the tag points to is the exception, as a push may write that at any time. A push
// writes its entry in the tag's index before that. So after deleting it, the index tells whether
// there is one, and then it gets the tag back.
func (s *Store) Untag(
	ctx context.Context, repo distribution.Repository, tag string, is digest.Digest,
) (removed bool, err error) {
	before, err := s.index(ctx, repo, tag)
	if err != nil {
		return false, err
	}
	var pushed indexEntry
	for _, e := range before {
		if !e.isOld(s.options.now()) {
			return false, nil
		}
		if e.record == nil && !e.written.Before(pushed.written) {
			pushed = e
		}
	}
	image, err := s.look(ctx, repo, tag)
	if err != nil || image.Digest != is || image.Pushed {
		return false, err
	}
	ctx = context.WithoutCancel(ctx) // what follows is not left half done because it is time to end
	if pushed.manifest != "" {
		if is == "" { // it was pushed while a process removed the tag that was killed then
			return false, repo.Tags(ctx).Tag(ctx, tag, v1.Descriptor{Digest: pushed.manifest})
		}
		return false, nil
	}
	if err := s.keepMade(ctx, repo, image); err != nil {
		return false, err
	}
	if err := s.deleteFile(ctx, paths.TagCurrent(repo.Named().Name(), tag)); err != nil {
		return false, fmt.Errorf("untagging %s:%s: %w", repo.Named().Name(), tag, err)
	}
	if back, err := s.giveBack(ctx, repo, tag, before); back || err != nil {
		return false, err
	}
	if err := s.forgetEntries(ctx, repo, tag, before, ""); err != nil {
		return false, err
	}
	if err := s.removeDirectory(ctx, repo, tag); err != nil {
		return false, err
	}
	image, err = s.look(ctx, repo, tag)
	return image.Digest == "", err // else somebody has tagged it anew
}

// TrimTag removes from the index of a tag the images that were built for it before the present one.
// Those of the last hour stay.
func (s *Store) TrimTag(ctx context.Context, repo distribution.Repository, tag string, present digest.Digest) error {
	before, err := s.index(ctx, repo, tag)
	if err != nil {
		return err
	}
	return s.forgetEntries(context.WithoutCancel(ctx), repo, tag, before, present)
}

// tagPath is where upstream's storage has a tag.
func tagPath(repo distribution.Repository, tag string) string {
	return path.Join(paths.Tags(repo.Named().Name()), tag)
}

// An indexEntry is a manifest in the index of a tag.
type indexEntry struct {
	manifest digest.Digest
	path     string // of its directory
	written  time.Time
	record   *Record // nil: it was pushed
}

// isOld tells whether whoever wrote an entry has also written where the tag points to, by now.
func (e indexEntry) isOld(now time.Time) bool { return now.Sub(e.written) > pushSlack }

// index reads the index of a tag.
func (s *Store) index(ctx context.Context, repo distribution.Repository, tag string) (entries []indexEntry, err error) {
	found, err := s.tagged(ctx, repo, tag)
	if err != nil {
		return nil, err
	}
	look := func(ctx context.Context, manifest digest.Digest) (indexEntry, error) {
		e := indexEntry{manifest: manifest, path: found[manifest]}
		info, err := s.state.driver.Stat(ctx, path.Join(e.path, "link"))
		if errors.As(err, new(driver.PathNotFoundError)) {
			return indexEntry{}, nil
		}
		if err != nil {
			return e, err
		}
		e.written = info.ModTime()
		record, built, err := s.records.Fresh(ctx, recordKey(repo, tag, manifest))
		if built {
			e.record = &record
		}
		return e, err
	}
	err = inOrder(ctx, slices.Sorted(maps.Keys(found)), look, func(e indexEntry) error {
		if e.manifest != "" {
			entries = append(entries, e)
		}
		return nil
	})
	return entries, err
}

// giveBack has a tag that was just deleted point to what was tagged since its index was read, if
// anything was. It returns true if the tag is there again.
func (s *Store) giveBack(
	ctx context.Context, repo distribution.Repository, tag string, before []indexEntry,
) (back bool, err error) {
	known := make(map[digest.Digest]time.Time, len(before))
	for _, e := range before {
		known[e.manifest] = e.written
	}
	for {
		now, err := s.index(ctx, repo, tag)
		if err != nil {
			return back, err
		}
		var newest indexEntry
		for _, e := range now {
			if at, ok := known[e.manifest]; (!ok || !at.Equal(e.written)) && !e.written.Before(newest.written) {
				newest = e
			}
		}
		if newest.manifest == "" {
			return back, nil
		}
		image, err := s.look(ctx, repo, tag)
		if err != nil || image.Digest != "" {
			return err == nil, err // whoever came later has written where the tag points to
		}
		logrus.Infof("nix: %s:%s was tagged while it was removed, and stays", repo.Named().Name(), tag)
		if err := repo.Tags(ctx).Tag(ctx, tag, v1.Descriptor{Digest: newest.manifest}); err != nil {
			return false, err
		}
		// Once more: something else may have been tagged, and then overwritten by this.
		back = true
		for _, e := range now {
			known[e.manifest] = e.written
		}
		if info, err := s.state.driver.Stat(ctx, path.Join(newest.path, "link")); err == nil {
			known[newest.manifest] = info.ModTime()
		}
	}
}

// forgetEntries removes built images from the index of a tag, but for the one that the tag points to
// at present. Their records are left to Sweep: an entry without one counts as pushed.
func (s *Store) forgetEntries(
	ctx context.Context, repo distribution.Repository, tag string, entries []indexEntry, present digest.Digest,
) error {
	for _, e := range entries {
		if e.record == nil || e.manifest == present || !e.isOld(s.options.now()) {
			continue
		}
		// Written anew, it is no record for Sweep for a while, and says what it is of.
		of := e.record.of(repo, tag, e.manifest)
		if err := s.records.Put(ctx, recordKey(repo, tag, e.manifest), of); err != nil {
			return err
		}
		if err := s.deleteFile(ctx, e.path); err != nil {
			return err
		}
	}
	return nil
}

// FinishUntags finishes what processes have begun to remove of a repository that were killed.
func (s *Store) FinishUntags(ctx context.Context, repo distribution.Repository) error {
	tags, err := s.state.List(ctx, path.Dir(movedKey(repo, "x")))
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := s.finishMoved(ctx, repo, tag); err != nil {
			return err
		}
	}
	return nil
}

// movedKey is where a tag is moved.
func movedKey(repo distribution.Repository, tag string) string {
	return path.Join(untaggedKind, repo.Named().Name(), "_tags", tag)
}

// removeDirectory removes the directory of a tag of which no file is left, where the storage has
// directories. To delete it would be to delete what is put into it meanwhile. So it is moved, and
// what is in it then is put back.
func (s *Store) removeDirectory(ctx context.Context, repo distribution.Repository, tag string) error {
	_, err := s.state.driver.List(ctx, tagPath(repo, tag))
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := s.index(ctx, repo, tag)
	if err != nil || len(entries) > 0 {
		return err
	}
	if image, err := s.look(ctx, repo, tag); err != nil || image.Digest != "" {
		return err
	}
	err = s.state.driver.Move(ctx, tagPath(repo, tag), paths.State+movedKey(repo, tag))
	if err != nil && !errors.As(err, new(driver.PathNotFoundError)) {
		return err
	}
	return s.finishMoved(ctx, repo, tag)
}

// finishMoved puts back what is in the directory of a tag that was moved, and deletes that.
func (s *Store) finishMoved(ctx context.Context, repo distribution.Repository, tag string) error {
	moved := paths.State + movedKey(repo, tag)
	entries, err := s.state.driver.List(ctx, path.Join(moved, "index/sha256"))
	if err != nil && !errors.As(err, new(driver.PathNotFoundError)) {
		return err
	}
	var tagged digest.Digest
	for _, link := range append(entries, path.Join(moved, "current")) { // which is written last
		content, err := s.state.driver.GetContent(ctx, path.Join(link, "link"))
		if errors.As(err, new(driver.PathNotFoundError)) {
			continue
		}
		if err != nil {
			return err
		}
		if manifest, err := digest.Parse(string(content)); err == nil { // else its writer was told that it failed
			tagged = manifest
		}
	}
	if tagged != "" {
		if image, err := s.look(ctx, repo, tag); err != nil {
			return err
		} else if image.Digest == "" {
			if err := repo.Tags(ctx).Tag(ctx, tag, v1.Descriptor{Digest: tagged}); err != nil {
				return err
			}
		}
	}
	return s.deleteFile(ctx, moved)
}

// deleteFile deletes a file or a directory, if it is there.
func (s *Store) deleteFile(ctx context.Context, name string) error {
	err := s.state.driver.Delete(ctx, name)
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil
	}
	return err
}
