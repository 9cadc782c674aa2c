package imagestore

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/faulty"
)

// An agedDriver says that all that was written before a time is older by two hours.
type agedDriver struct {
	driver.StorageDriver
	aged time.Time
}

func (d *agedDriver) Stat(ctx context.Context, path string) (driver.FileInfo, error) {
	info, err := d.StorageDriver.Stat(ctx, path)
	if err != nil || !info.ModTime().Before(d.aged) {
		return info, err
	}
	return driver.FileInfoInternal{FileInfoFields: driver.FileInfoFields{
		Path: info.Path(), Size: info.Size(), IsDir: info.IsDir(), ModTime: info.ModTime().Add(-2 * time.Hour),
	}}, nil
}

// A directoryDriver moves directories with all that is in them, as file systems do. The driver in
// memory loses the files then.
type directoryDriver struct{ driver.StorageDriver }

func (d directoryDriver) Move(ctx context.Context, from, to string) error {
	err := d.Walk(ctx, from, func(info driver.FileInfo) error {
		if info.IsDir() {
			return nil
		}
		content, err := d.GetContent(ctx, info.Path())
		if err != nil {
			return err
		}
		return d.PutContent(ctx, to+strings.TrimPrefix(info.Path(), from), content)
	})
	if err != nil {
		return err
	}
	return d.Delete(ctx, from)
}

// An objectDriver has no directories but for those of files, and moves files alone, as object stores
// do.
type objectDriver struct{ driver.StorageDriver }

func (d objectDriver) List(ctx context.Context, dir string) (full []string, err error) {
	names, err := d.StorageDriver.List(ctx, dir)
	for _, name := range names {
		info, err := d.Stat(ctx, name)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			if _, err := d.List(ctx, name); err != nil {
				continue
			}
		}
		full = append(full, name)
	}
	if err == nil && len(full) == 0 {
		err = driver.PathNotFoundError{Path: dir}
	}
	return full, err
}

func (d objectDriver) Move(ctx context.Context, from, to string) error {
	if info, err := d.Stat(ctx, from); err != nil || info.IsDir() {
		return driver.PathNotFoundError{Path: from}
	}
	return d.StorageDriver.Move(ctx, from, to)
}

// untagging is a storage with an image under latest and r1, of two hours ago.
type untagging struct {
	storing // another replica, whose calls are not counted
	files   *faulty.Driver
	img     digest.Digest
}

// everyStorage calls test for both kinds of storage.
func everyStorage(t *testing.T, test func(t *testing.T, begin func(*testing.T) untagging)) {
	for name, wrap := range map[string]func(driver.StorageDriver) driver.StorageDriver{
		"directories": func(d driver.StorageDriver) driver.StorageDriver { return directoryDriver{d} },
		"objects":     func(d driver.StorageDriver) driver.StorageDriver { return objectDriver{d} },
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T) untagging {
				t.Helper()
				files := &agedDriver{StorageDriver: wrap(inmemory.New())}
				u := untagging{storing: storingIn(t, files, Options{}), files: faulty.New(files)}
				img, err := u.commit(t, []Tag{{Name: "latest"}, {Name: "r1"}}, "first")
				if err != nil {
					t.Fatal(err)
				}
				files.aged = time.Now()
				u.img = img.Manifest.Digest
				return u
			})
		})
	}
}

// untag removes latest as another process does, which is killed where a fault says so.
func (u untagging) untag(t *testing.T, files driver.StorageDriver) (removed bool, err error) {
	t.Helper()
	process := storingIn(t, files, Options{})
	if err := process.FinishUntags(t.Context(), process.repo); err != nil {
		return false, err
	}
	image, err := process.look(t.Context(), process.repo, "latest")
	if err != nil {
		return false, err
	}
	return process.Untag(t.Context(), process.repo, "latest", image.Digest)
}

// now looks latest up as a process does that has just begun.
func (u untagging) now(t *testing.T, tag string) Image {
	t.Helper()
	return storingIn(t, u.files.StorageDriver, Options{}).lookUp(t, tag)
}

// push stores a manifest as somebody's own, and returns how its tag is written in two steps.
func (u untagging) push(t *testing.T) (manifest digest.Digest, index, current func()) {
	t.Helper()
	pushed := u.image(theLayer, "pushed").Manifest
	manifests, err := u.repo.Manifests(t.Context(), storage.SkipLayerVerification())
	if err != nil {
		t.Fatal(err)
	}
	if err := putConfig(t.Context(), u.repo, pushed); err != nil {
		t.Fatal(err)
	}
	if err := putManifest(t.Context(), manifests, pushed); err != nil {
		t.Fatal(err)
	}
	write := func(file string) func() {
		return func() {
			name := path.Join(tagPath(u.repo, "latest"), file, "link")
			if err := u.files.StorageDriver.PutContent(t.Context(), name, []byte(pushed.Digest)); err != nil {
				t.Error(err)
			}
		}
	}
	return pushed.Digest, write(path.Join("index/sha256", pushed.Digest.Encoded())), write("current")
}

// A built tag goes. What is somebody's own stays, and so does what is young.
func TestUntag(t *testing.T) {
	everyStorage(t, func(t *testing.T, begin func(*testing.T) untagging) {
		for _, test := range []struct {
			name    string
			before  func(t *testing.T, u untagging)
			is      digest.Digest // empty: what latest is
			removed bool
		}{
			{name: "built", removed: true},
			{name: "another image", is: digest.FromString("another")},
			{name: "pushed", before: func(t *testing.T, u untagging) {
				_, index, current := u.push(t)
				index()
				current()
				u.age()
			}},
			{name: "pushed once", before: func(t *testing.T, u untagging) {
				_, index, _ := u.push(t)
				index()
				u.age()
			}},
			{name: "a push is under way", before: func(t *testing.T, u untagging) {
				_, index, _ := u.push(t)
				index()
			}},
			{name: "built this moment", before: func(t *testing.T, u untagging) {
				if _, err := u.commit(t, []Tag{{Name: "latest"}}, "first"); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			t.Run(test.name, func(t *testing.T) {
				u := begin(t)
				if test.before != nil {
					test.before(t, u)
				}
				was := u.lookUp(t, "latest")
				is := test.is
				if is == "" {
					is = was.Digest
				}
				removed, err := u.Untag(t.Context(), u.repo, "latest", is)
				if removed != test.removed || err != nil {
					t.Errorf("it was removed: %t, %v", removed, err)
				}
				tags, err := u.repo.Tags(t.Context()).All(t.Context())
				if err != nil || slices.Contains(tags, "latest") == test.removed || !slices.Contains(tags, "r1") {
					t.Errorf("there are the tags %q, %v", tags, err)
				}
				now := u.now(t, "latest")
				stayed := now.Digest == was.Digest && now.Pushed == was.Pushed
				if test.removed && now.Digest != "" || !test.removed && !stayed {
					t.Errorf("latest is %+v, was %+v", now, was)
				}
				if _, pinned, err := u.RevisionOf(t.Context(), "image", u.img); !pinned || err != nil {
					t.Errorf("it could be built again: %t, %v", pinned, err)
				}
			})
		}
	})
}

// age has all that was written until now be of two hours ago.
func (u untagging) age() { u.files.StorageDriver.(*agedDriver).aged = time.Now() }

// A push under a tag that is being removed stays, wherever its two steps fall. They are made right
// before two calls of the removal, or after the last, for each two of them.
func TestPushDuringUntag(t *testing.T) {
	everyStorage(t, func(t *testing.T, begin func(*testing.T) untagging) {
		u := begin(t)
		if removed, err := u.untag(t, u.files); !removed || err != nil {
			t.Fatalf("it was removed: %t, %v", removed, err)
		}
		calls := u.files.Calls()
		for first := 1; first <= calls+1; first++ {
			for second := first; second <= calls+1; second++ {
				u := begin(t)
				pushed, index, current := u.push(t)
				steps := []func(){index, current}
				at := []int{first, second}
				n := 0
				u.files.Before(func(faulty.Call) {
					for n++; len(steps) > 0 && at[0] == n; steps, at = steps[1:], at[1:] {
						steps[0]()
					}
				})
				if _, err := u.untag(t, u.files); err != nil {
					t.Fatal(err)
				}
				for _, step := range steps {
					step()
				}
				if now := u.now(t, "latest"); now.Digest != pushed || !now.Pushed {
					t.Errorf("pushed before calls %d and %d of %d: latest is %+v", first, second, calls, now)
				}
			}
		}
	})
}

// The process that removes a tag is killed at each of its calls, with a push before each of them. The
// next one finishes what was begun, and loses no push.
func TestUntagEnds(t *testing.T) {
	everyStorage(t, func(t *testing.T, begin func(*testing.T) untagging) {
		for _, kind := range []faulty.Kind{faulty.EndBefore, faulty.EndAfter, faulty.Fail} {
			for at := 1; ; at++ {
				u := begin(t)
				u.files.Inject(faulty.Fault{Kind: kind, At: at})
				_, _ = u.untag(t, u.files)
				if _, struck := u.files.Struck(); !struck {
					break
				}
				if now := u.now(t, "latest"); now.Pushed {
					t.Errorf("%s %d: latest counts as pushed: %+v", kind, at, now)
				}
				if _, err := u.untag(t, u.files.StorageDriver); err != nil {
					t.Fatal(err)
				}
				if left := u.left(t); len(left) > 0 {
					t.Errorf("%s %d: there is left %q", kind, at, left)
				}
				if _, err := u.commit(t, []Tag{{Name: "latest"}, {Name: "r1"}}, "first"); err != nil {
					t.Fatal(err)
				}
				if now := u.now(t, "latest"); now.Digest != u.img || now.Pushed {
					t.Errorf("%s %d: built again, latest is %+v", kind, at, now)
				}
				for pushAt := 1; pushAt <= at; pushAt++ {
					u.endsWithPush(t, begin(t), kind, at, pushAt)
				}
			}
		}
	})
}

// endsWithPush has something pushed before a call, and the process killed at a later one.
func (untagging) endsWithPush(t *testing.T, u untagging, kind faulty.Kind, at, pushAt int) {
	t.Helper()
	pushed, index, current := u.push(t)
	n := 0
	u.files.Before(func(faulty.Call) {
		if n++; n == pushAt {
			index()
			current()
		}
	})
	u.files.Inject(faulty.Fault{Kind: kind, At: at})
	_, _ = u.untag(t, u.files)
	u.age()
	if _, err := u.untag(t, u.files.StorageDriver); err != nil {
		t.Fatal(err)
	}
	if now := u.now(t, "latest"); n >= pushAt && (now.Digest != pushed || !now.Pushed) {
		t.Errorf("%s at %d, pushed before %d: latest is %+v", kind, at, pushAt, now)
	}
}

// left are the files that tell of latest, but for its record: that is found later to be of nothing.
func (u untagging) left(t *testing.T) (files []string) {
	t.Helper()
	err := u.files.StorageDriver.Walk(t.Context(), "/", func(info driver.FileInfo) error {
		if name := info.Path(); strings.Contains(name, "latest") && !info.IsDir() {
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	tags, err := u.repo.Tags(t.Context()).All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return append(files, slices.DeleteFunc(tags, func(tag string) bool { return tag != "latest" })...)
}

// An image that is built while its tag is removed is there in the end, and counts as built: the whole
// commit before each call of the removal, and the whole removal before each call of the commit.
func TestCommitDuringUntag(t *testing.T) {
	everyStorage(t, func(t *testing.T, begin func(*testing.T) untagging) {
		for _, note := range []string{"first", "another"} {
			within := func(at int, outer, inner func(t *testing.T, u untagging, files driver.StorageDriver)) bool {
				u := begin(t)
				n := 0
				u.files.Before(func(faulty.Call) {
					if n++; n == at {
						inner(t, u, u.files.StorageDriver)
					}
				})
				outer(t, u, u.files)
				if n < at {
					return false
				}
				if now := u.now(t, "latest"); now.Pushed || now.Digest == "" {
					t.Errorf("%s, within call %d: latest is %+v", note, at, now)
				}
				return true
			}
			commit := func(t *testing.T, _ untagging, files driver.StorageDriver) {
				t.Helper()
				if _, err := storingIn(t, files, Options{}).commit(t, []Tag{{Name: "latest"}}, note); err != nil {
					t.Error(err)
				}
			}
			untag := func(t *testing.T, u untagging, files driver.StorageDriver) {
				t.Helper()
				if _, err := u.untag(t, files); err != nil {
					t.Error(err)
				}
			}
			for at := 1; within(at, untag, commit); at++ {
			}
			for at := 1; within(at, commit, untag); at++ {
			}
		}
	})
}

// What a moving tag pointed to before goes from its index, but for what was pushed.
func TestTrimTag(t *testing.T) {
	everyStorage(t, func(t *testing.T, begin func(*testing.T) untagging) {
		u := begin(t)
		pushed, index, _ := u.push(t)
		index()
		u.age()
		for i := range 5 {
			if _, err := u.commit(t, []Tag{{Name: "latest"}}, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			u.age()
		}
		present := u.lookUp(t, "latest")
		if err := u.TrimTag(t.Context(), u.repo, "latest", present.Digest); err != nil {
			t.Fatal(err)
		}
		entries, err := u.index(t.Context(), u.repo, "latest")
		var left []digest.Digest
		for _, e := range entries {
			left = append(left, e.manifest)
		}
		slices.Sort(left)
		want := []digest.Digest{present.Digest, pushed}
		slices.Sort(want)
		if err != nil || !slices.Equal(left, want) {
			t.Errorf("the index has %q, %v, want %q", left, err, want)
		}
		if now := u.now(t, "latest"); now.Digest != present.Digest || now.Pushed {
			t.Errorf("latest is %+v", now)
		}
	})
}

// The inventory of a repository tells built tags from pushed ones, and what an index is made of.
func TestInventory(t *testing.T) {
	s := newStoring(t, Options{})
	index, err := s.commit(t, []Tag{{Name: "latest"}, {Name: "r1"}}, "one", "two")
	if err != nil {
		t.Fatal(err)
	}
	tags := s.repo.Tags(t.Context())
	if err := tags.Tag(t.Context(), "own", v1.Descriptor{Digest: index.Manifest.Digest}); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	err = s.EachTag(t.Context(), s.repo, func(tagged Tagged) error {
		got[tagged.Tag] = tagged.Pushed
		if tagged.Digest != index.Manifest.Digest || !tagged.Pushed && tagged.Revision != "r1" {
			t.Errorf("there is %+v", tagged)
		}
		return nil
	})
	if err != nil || len(got) != 3 || !got["own"] || got["latest"] || got["r1"] {
		t.Errorf("the tags are pushed: %v, %v", got, err)
	}
	manifests := 0
	err = s.EachManifest(t.Context(), s.repo, func(stored Stored) error {
		if manifests++; !stored.Made {
			t.Errorf("%s was not made", stored.Digest)
		}
		return nil
	})
	if err != nil || manifests != 3 {
		t.Errorf("%d manifests are stored, %v", manifests, err)
	}
	parts, err := s.PartsOf(t.Context(), s.repo, index.Manifest.Digest)
	if err != nil || len(parts.Children) != 2 || len(parts.Blobs) != 1+2*3 || parts.Subject != "" {
		t.Errorf("the index has %+v, %v", parts, err)
	}
	if linked, err := s.Linked(t.Context(), "image"); err != nil || len(linked) != 3 {
		t.Errorf("the repository has %q, %v", linked, err)
	}
}
