package imagestore

import (
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/internal/faulty"
	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// sweep removes all records that are of no use, however young, and returns how many of each kind.
func (s storing) sweep(t *testing.T) map[string]int {
	t.Helper()
	future := time.Now().Add(time.Hour)
	removed, err := s.Sweep(t.Context(), Sweep{Tags: future, Pinned: future, Made: func(revision string) {
		if revision != "r1" {
			t.Errorf("there is a record of revision %s", revision)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return removed
}

// Records go with what they are of: that of a tag with the tag, and those by which a digest is built
// again with the manifest. What is recorded of tags that are there stays.
func TestSweep(t *testing.T) {
	everyStorage(t, func(t *testing.T, begin func(*testing.T) untagging) {
		u := begin(t)
		from := Reader{Name: "image", Blobs: u.repo.Blobs(t.Context())}
		var err error
		if from.Manifests, err = u.repo.Manifests(t.Context()); err != nil {
			t.Fatal(err)
		}
		form, err := u.Make(t.Context(), from, u.img, Docker)
		if err != nil {
			t.Fatal(err)
		}
		check := func(when string, tags, made, forms int) {
			t.Helper()
			if got := u.sweep(t); got["tags"] != tags || got["made"] != made || got["forms"] != forms {
				t.Errorf("%s, %v records were removed", when, got)
			}
		}
		check("with all there", 0, 0, 0)
		if removed, err := u.untag(t, u.files.StorageDriver); !removed || err != nil {
			t.Fatalf("it was removed: %t, %v", removed, err)
		}
		check("without latest", 1, 0, 0)
		if now := u.now(t, "r1"); now.Pushed || now.Digest != u.img {
			t.Errorf("r1 is %+v", now)
		}
		if _, pinned, err := u.RevisionOf(t.Context(), "image", form.Digest); !pinned || err != nil {
			t.Errorf("the form could be built again: %t, %v", pinned, err)
		}
		revision := paths.Revision("image", u.img)
		if err := u.files.StorageDriver.Delete(t.Context(), revision); err != nil {
			t.Fatal(err)
		}
		check("without the manifest", 0, 1, 1)
	})
}

// Records of versions that did not say what they are of stay, or are of use until somebody needs them.
func TestSweepOfOlderRecords(t *testing.T) {
	s := newStoring(t, Options{})
	old := digest.FromString("old")
	if err := s.records.Put(t.Context(), recordKey(s.repo, "old", old), Record{Revision: "r1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.made.Put(t.Context(), madeKey("image", old), madeRecord{Revision: "r1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.forms.Put(t.Context(), formKey("image", old), formRecord{Of: old, Form: Docker}); err != nil {
		t.Fatal(err)
	}
	if got := s.sweep(t); got["tags"] != 0 || got["made"] != 1 || got["forms"] != 1 {
		t.Errorf("%v records were removed", got)
	}
}

// An image that is committed while the record of its tag is removed counts as built in the end.
func TestCommitDuringSweep(t *testing.T) {
	everyStorage(t, func(t *testing.T, begin func(*testing.T) untagging) {
		within := func(at int, outer, inner func(u untagging, files driver.StorageDriver)) bool {
			u := begin(t)
			if removed, err := u.untag(t, u.files.StorageDriver); !removed || err != nil {
				t.Fatalf("it was removed: %t, %v", removed, err)
			}
			n := 0
			u.files.Before(func(faulty.Call) {
				if n++; n == at {
					inner(u, u.files.StorageDriver)
				}
			})
			outer(u, u.files)
			if n < at {
				return false
			}
			if now := u.now(t, "latest"); now.Pushed || now.Digest == "" {
				t.Errorf("within call %d: latest is %+v", at, now)
			}
			return true
		}
		commit := func(_ untagging, files driver.StorageDriver) {
			if _, err := storingIn(t, files, Options{}).commit(t, []Tag{{Name: "latest"}}, "first"); err != nil {
				t.Error(err)
			}
		}
		sweep := func(_ untagging, files driver.StorageDriver) { storingIn(t, files, Options{}).sweep(t) }
		for at := 1; within(at, sweep, commit); at++ {
		}
		for at := 1; within(at, commit, sweep); at++ {
		}
	})
}
