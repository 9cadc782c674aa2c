package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// age has all that a registry has stored be older, also what its records say of when that was.
func (r *Registry) age(t testing.TB, by time.Duration) {
	t.Helper()
	root := filepath.Join(r.Dir, "storage")
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if strings.Contains(name, "/nix/v1/tags/") || strings.Contains(name, "/nix/v1/pulls/") {
			ageRecord(t, name, by)
		}
		then := info.ModTime().Add(-by)
		return os.Chtimes(name, then, then)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ageRecord(t testing.TB, name string, by time.Duration) {
	t.Helper()
	_, content, _ := strings.Cut(Read(t, name), "\n")
	var record map[string]any
	if err := json.Unmarshal([]byte(content), &record); err != nil {
		t.Fatal(err)
	}
	text, _ := record["at"].(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	record["at"] = at.Add(-by)
	aged, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	Write(t, name, fmt.Sprintf("%x\n%s", sha256.Sum256(aged), aged))
}

// prune runs registry nix prune, and returns what it prints.
func (r *Registry) prune(t testing.TB, flags ...string) string {
	t.Helper()
	return Exec(t, "registry", append([]string{"nix", "prune", "--config", r.ConfigFile()}, flags...)...)
}

// pruned is what registry nix prune --json prints.
type pruned struct {
	Dry      bool
	Images   int
	Bytes    int64
	Removals []struct {
		Image, Digest, Revision, Reason string
		LastPull                        *time.Time
		Bytes                           int64
	}
	Records map[string]int
}

func (r *Registry) pruneJSON(t testing.TB, flags ...string) (p pruned) {
	t.Helper()
	text := r.prune(t, append(flags, "--json")...)
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):strings.LastIndex(text, "}")+1]), &p); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return p
}

// storedTags lists the tags of a repository as they are stored.
func (r *Registry) storedTags(t testing.TB, name string) (tags []string) {
	t.Helper()
	dir := filepath.Join(r.Dir, "storage/docker/registry/v2/repositories", name, "_manifests/tags")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		tags = append(tags, entry.Name())
	}
	return tags
}

// TestPrune edits a package set many times, with pulls in between, and prunes what comes of it beside
// the registry.
func TestPrune(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	const edits, keep = 12, 3
	packages := FreshPackages(t)
	r := StartRegistry(t, "nix.packages.path="+packages, fmt.Sprint("nix.retention.keep=", keep))
	first := r.Pull(t, "quick")
	var latest Image
	for i := range edits {
		Write(t, filepath.Join(packages, "text"), fmt.Sprint("edit ", i))
		latest = r.Pull(t, "quick")
		r.age(t, 24*time.Hour)
	}
	Exec(t, "crane", "copy", r.Ref("quick"), r.Ref("own/quick"))
	Exec(t, "crane", "tag", r.Ref("quick"), "own")
	Exec(t, "crane", "copy", r.Ref("quick@"+first.Digest.String()), r.Ref("quick:sha256-"+first.Digest.Encoded()+".sig"))
	r.age(t, 2*time.Hour)
	tags := r.storedTags(t, "quick")
	if len(tags) != edits+1+3 {
		t.Fatalf("there are the tags %q", tags)
	}

	planned := r.pruneJSON(t)
	if got := r.storedTags(t, "quick"); !slices.Equal(got, tags) || !planned.Dry || planned.Images != edits+2 {
		t.Errorf("a plan of %d images left %q", planned.Images, got)
	}
	// The first image has something attached to it.
	if len(planned.Removals) != edits+1-keep-1 || planned.Bytes < 1000*int64(len(planned.Removals)) {
		t.Errorf("there would go %+v", planned)
	}
	done := r.pruneJSON(t, "--yes")
	if len(done.Removals) != len(planned.Removals) || done.Bytes != planned.Bytes || done.Dry {
		t.Errorf("there went %+v, planned was %+v", done, planned)
	}
	if got := r.storedTags(t, "quick"); len(got) != 1+keep+1+2 || !slices.Contains(got, "latest") ||
		!slices.Contains(got, "own") {
		t.Errorf("there are left %q", got)
	}
	if again := r.pruneJSON(t, "--yes"); len(again.Removals) != 0 {
		t.Errorf("once more, there went %+v", again)
	}
	if got := r.Pull(t, "quick"); got.Digest != latest.Digest {
		t.Errorf("latest is %s, was %s", got.Digest, latest.Digest)
	}
	r.age(t, 8*24*time.Hour)
	if swept := r.pruneJSON(t, "--yes"); swept.Records["tags"] < len(done.Removals) || swept.Records["packages"] == 0 {
		t.Errorf("a week later, there went the records %v", swept.Records)
	}

	before := diskUsage(t, filepath.Join(r.Dir, "storage/docker/registry/v2/blobs"))
	r.Stop()
	r.GarbageCollect("-m")
	if freed := before - diskUsage(t, filepath.Join(r.Dir, "storage/docker/registry/v2/blobs")); freed != done.Bytes {
		t.Errorf("%d bytes are free, and should be %d", freed, done.Bytes)
	}
	r.Start()
	for _, image := range []Image{
		r.Pull(t, "quick"), r.PullTag(t, "own/quick", "latest"), r.PullTag(t, "quick", "own"),
	} {
		r.CheckWhole(t, image)
		if image.Digest != latest.Digest {
			t.Errorf("after garbage collection, there is %s, was %s", image.Digest, latest.Digest)
		}
	}
	Exec(t, "crane", "manifest", r.Ref("quick@"+first.Digest.String()))
}

// putManifest pushes an image manifest whose parts the repository has.
func (r *Registry) putManifest(t testing.TB, name, tag string, manifest []byte) {
	t.Helper()
	url := "http://" + r.Addr + "/v2/" + name + "/manifests/" + tag
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader(manifest))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", v1.MediaTypeImageManifest)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Errorf("pushing %s:%s: %s", name, tag, response.Status)
	}
}

// diskUsage is the size of all files of a directory.
func diskUsage(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		bytes += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestPruneKilled kills the command again and again, with pulls and pushes on two registries beside
// it. In the end it has done its work, all that was pushed is there, and pulls have always worked.
func TestPruneKilled(t *testing.T) {
	t.Parallel()
	const images, kills = 12, 12
	r := StartRegistry(t, "nix.packages.path="+FreshPackages(t))
	built := r.Pull(t, "quick")
	_, _, payload, err := r.Get(t.Context(), "/v2/quick/manifests/latest", v1.MediaTypeImageManifest)
	if err != nil {
		t.Fatal(err)
	}
	revision := slices.DeleteFunc(r.storedTags(t, "quick"), func(tag string) bool { return tag == "latest" })[0]
	r.age(t, 31*24*time.Hour)
	other := NewRegistry(t)
	Write(t, other.ConfigFile(), Read(t, r.ConfigFile()))
	other.Start()

	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	var pushed []string
	for i := range kills {
		command := exec.Command(program, "nix", "prune", "--config", r.ConfigFile(), "--maxsize", "1", "--yes")
		command.Env = shared.environ()
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = command.Wait()
		}()
		tag := fmt.Sprint("own", i)
		for n := range images {
			replica := []*Registry{r, other}[n%2]
			if got := replica.Pull(t, "quick"); got.Digest != built.Digest {
				t.Errorf("latest is %s, was %s", got.Digest, built.Digest)
			}
			if n == i {
				if err := command.Process.Kill(); err != nil && !strings.Contains(err.Error(), "finished") {
					t.Error(err)
				}
				replica.putManifest(t, "quick", tag, payload)
				pushed = append(pushed, tag)
			}
		}
		<-ended
		r.age(t, 2*time.Hour)
	}
	for _, tag := range pushed {
		if got := other.PullTag(t, "quick", tag); got.Digest != built.Digest {
			t.Errorf("%s is %s, was pushed as %s", tag, got.Digest, built.Digest)
		}
	}
	r.prune(t, "--maxsize", "1", "--yes")
	want := append(slices.Clone(pushed), "latest", revision)
	for _, tag := range r.storedTags(t, "quick") {
		if !slices.Contains(want, tag) {
			t.Errorf("there is a tag %s", tag)
		}
	}
	r.CheckWhole(t, r.Pull(t, "quick"))
}
