package integration

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
)

// TestGitSource serves a package set from a git repository, by branch, tag and commit, and goes on
// when the repository is gone.
func TestGitSource(t *testing.T) {
	t.Parallel()
	repository := newRepository(t)
	packages, git, commit := repository.dir, repository.git, repository.commit
	one := commit("one")
	git("tag", "-a", "v1", "-m", "the first")
	two := commit("two")
	git("branch", "side")

	// The registry may forget at once what a branch stands for, so that every pull asks.
	r := StartRegistry(
		t, fmt.Sprintf(`nix.packages={"git": {"url": "file://%s", "ref": "main"}}`, packages),
		"nix.refresh=1ns",
	)
	latest := r.PullTag(t, "quick", "latest")
	if latest.Annotations[v1.AnnotationRevision] != two ||
		latest.Annotations[v1.AnnotationSource] != "file://"+packages {
		t.Errorf(
			"latest was built from %s %s, want %s", latest.Annotations[v1.AnnotationSource],
			latest.Annotations[v1.AnnotationRevision], two,
		)
	}
	for tag, revision := range map[string]string{"main": two, "side": two, two: two, "v1": one, one: one} {
		if got := r.PullTag(t, "quick", tag); got.Annotations[v1.AnnotationRevision] != revision {
			t.Errorf("%s was built from %s, want %s", tag, got.Annotations[v1.AnnotationRevision], revision)
		}
	}
	if r.PullTag(t, "quick", two).Digest != latest.Digest || r.PullTag(t, "quick", one).Digest == latest.Digest {
		t.Error("images of a revision differ, or those of two revisions do not")
	}
	for tag, want := range map[string]int{
		"nosuch": http.StatusNotFound, strings.Repeat("0", 40): http.StatusForbidden,
		"--upload-pack": http.StatusNotFound, "v1..main": http.StatusNotFound,
	} {
		status, _, body, err := r.Get(t.Context(), "/v2/quick/manifests/"+tag, v1.MediaTypeImageManifest)
		if err != nil || status != want {
			t.Errorf("tag %q is answered with %d %s, %v", tag, status, body, err)
		}
	}

	three := commit("three")
	moved := r.PullTag(t, "quick", "latest")
	if moved.Annotations[v1.AnnotationRevision] != three {
		t.Errorf("after a commit, latest was built from %s, want %s", moved.Annotations[v1.AnnotationRevision], three)
	}
	r.CheckWhole(t, moved)

	if err := os.Rename(packages, packages+"-away"); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(packages+"-away", packages)
	r.Stop()
	r.Start()
	if got := r.PullTag(t, "quick", "latest"); got.Digest != moved.Digest {
		t.Error("with the repository gone, latest is another image")
	}
	if got := r.PullTag(t, "sleeps.s0", "latest"); got.Annotations[v1.AnnotationRevision] != three {
		t.Errorf(
			"with the repository gone, a new image was built from %s, want %s",
			got.Annotations[v1.AnnotationRevision], three,
		)
	}
	_, header, _, err := r.Get(t.Context(), "/v2/quick/manifests/latest", v1.MediaTypeImageManifest)
	if warnings := strings.Join(header.Values("Warning"), "; "); err != nil ||
		!strings.Contains(warnings, "could not be looked up") {
		t.Errorf("with the repository gone, the warnings are %q, %v", warnings, err)
	}
}

// TestChannelSource serves packages of a channel from a mirror.
func TestChannelSource(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	revision := strings.Repeat("a", 40)
	mirror := serveChannel(t, packages, revision)

	r := StartRegistry(t, "nix.packages="+mirror.packages(), "nix.refresh=1h")
	first := r.PullTag(t, "quick", "latest")
	if got := first.Annotations; got[v1.AnnotationRevision] != revision ||
		got[v1.AnnotationSource] != "channel:nixos-26.05" {
		t.Errorf("latest was built from %v", got)
	}
	programs := r.Programs()
	for _, tag := range []string{"latest", "nixos-26.05", revision} {
		if got := r.PullTag(t, "quick", tag); got.Annotations[v1.AnnotationRevision] != revision {
			t.Errorf("%s was built from %s", tag, got.Annotations[v1.AnnotationRevision])
		}
	}
	if now := r.Programs(); !slices.Equal(now, programs) {
		t.Errorf("for what was built before, programs were started: %q", now[len(programs):])
	}
	r.PullTag(t, "sleeps.s0", "latest")
	for path, times := range mirror.requests() {
		if times != 1 {
			t.Errorf("%s was fetched %d times", path, times)
		}
	}
	for tag, want := range map[string]int{
		"nixos-99.99": http.StatusForbidden, strings.Repeat("c", 40): http.StatusForbidden, "main": http.StatusNotFound,
	} {
		status, _, body, err := r.Get(t.Context(), "/v2/quick/manifests/"+tag, v1.MediaTypeImageManifest)
		if err != nil || status != want {
			t.Errorf("tag %q is answered with %d %s, %v", tag, status, body, err)
		}
	}
}

// TestStrangersCommit asks for commits of a repository that gives out all that it has, as large
// hosts do, those of proposed changes too. Choosing a package set runs its code, so the operator
// has to permit that.
func TestStrangersCommit(t *testing.T) {
	t.Parallel()
	repository := newRepository(t)
	old := repository.commit("old")
	repository.git("tag", "v1")
	seen := repository.commit("seen, and taken back")
	stranger := repository.orphan("of a stranger")
	repository.git("update-ref", "refs/pull/7/head", stranger)
	bare := filepath.Join(Dir(t), "packages.git")
	Exec(t, "git", "clone", "--quiet", "--mirror", "--", repository.dir, bare)
	Exec(t, "git", "-C", bare, "config", "uploadpack.allowAnySHA1InWant", "true")
	packages := func(tags string) []string {
		return []string{
			fmt.Sprintf(`nix.packages={"git": {"url": "file://%s", "ref": "main"}%s}`, bare, tags),
			"nix.refresh=1ns",
		}
	}
	of := func(r *Registry, name, tag, revision string) Image {
		t.Helper()
		image := r.PullTag(t, name, tag)
		if got := image.Annotations[v1.AnnotationRevision]; got != revision {
			t.Errorf("%s:%s is of %s, want %s", name, tag, got, revision)
		}
		return image
	}

	r := StartRegistry(t, packages("")...)
	of(r, "quick", "latest", seen) // from here on there is a shallow repository
	r.refuses(t, stranger, http.StatusForbidden, "DENIED", stranger, "packages.tags")
	of(r, "quick", old, old)
	of(r, "quick", "v1", old)
	Exec(t, "git", "-C", bare, "update-ref", "refs/heads/main", old)
	of(r, "quick", "latest", old)
	for _, tag := range []string{"sha256-" + strings.Repeat("0a", 32) + ".sig", "sha256-" + strings.Repeat("0a", 32)} {
		status, _, body, err := r.Get(t.Context(), "/v2/quick/manifests/"+tag, v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusNotFound {
			t.Errorf("%s is answered with %d %s, %v", tag, status, body, err)
		}
	}

	// Another replica knows what the branch was seen at.
	r.Stop()
	sharing := "storage.filesystem.rootdirectory=" + r.storage()
	other := StartRegistry(t, append(packages(""), sharing)...)
	of(other, "sleeps.s0", seen, seen)
	other.Stop()

	anyone := StartRegistry(t, append(packages(`, "tags": ["*"]`), sharing)...)
	made := of(anyone, "quick", stranger, stranger)
	anyone.Stop()

	// What was built is the tag of an image, which nobody's code is run for.
	none := StartRegistry(t, append(packages(`, "tags": []`), sharing)...)
	if again := of(none, "quick", stranger, stranger); again.Digest != made.Digest {
		t.Errorf("%s is %s, was %s", stranger, again.Digest, made.Digest)
	}
	status, _, body, err := none.Get(t.Context(), "/v2/sleeps.s1/manifests/"+stranger, v1.MediaTypeImageManifest)
	if err != nil || status != http.StatusForbidden {
		t.Errorf("another image of %s is answered with %d %s, %v", stranger, status, body, err)
	}
	none.refuses(t, "v2", http.StatusForbidden, "DENIED", "packages.tags")
}

// TestCacheSize pulls more commits than there is room for, of a set whose files and whose fetched
// archives are large. What is older goes, and can be pulled all the same.
func TestCacheSize(t *testing.T) {
	t.Parallel()
	const size, most = 4 << 20, 30 << 20
	repository := newRepository(t)
	inner := FreshPackages(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if err := writeArchive(w, inner, "set"+filepath.Base(request.URL.Path)); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	noise := func(file string) {
		t.Helper()
		content := make([]byte, size)
		if _, err := rand.Read(content); err != nil {
			t.Fatal(err)
		}
		Write(t, file, string(content))
	}
	noise(filepath.Join(inner, "noise"))
	repository.git("config", "uploadpack.allowFilter", "true")
	var commits []string
	for i := range 8 {
		noise(filepath.Join(repository.dir, "noise"))
		Write(
			t, filepath.Join(repository.dir, "default.nix"),
			fmt.Sprintf(`{ system, ... }: import (fetchTarball "%s/%d.tar.gz") { inherit system; }`, server.URL, i),
		)
		commits = append(commits, repository.commit(fmt.Sprint(i)))
	}
	r := StartRegistry(
		t,
		append(
			gitSettings("file://"+repository.dir), fmt.Sprintf("nix.nix.alloweduris=[%q]", server.URL),
			fmt.Sprintf("nix.cachesize=%d", most),
		)...)
	for _, commit := range append(commits, commits[0]) {
		if got := r.PullTag(t, "quick", commit); !strings.HasPrefix(got.Annotations[v1.AnnotationRevision], commit) {
			t.Errorf("%s was built from %s", commit, got.Annotations[v1.AnnotationRevision])
		}
	}
	Eventually(
		t, startTime, "the cache directory has as much as it may",
		func() bool { return cachedir.Usage(filepath.Join(r.Dir, "cache")) <= most },
	)
	if !strings.Contains(r.Log(), "(cachesize)") {
		t.Error("the log does not say that something was removed")
	}
	r.PullTag(t, "sleeps.s0", commits[1])
}

// newLateRepository makes a repository whose package late looks at another file when its evaluation
// has run for a while. Without the file, it is another package.
func newLateRepository(t *testing.T) repository {
	t.Helper()
	repository := newRepository(t)
	Write(t, filepath.Join(repository.dir, "late.nix"), "{ fresh }: fresh.quick")
	Write(t, filepath.Join(repository.dir, "set.nix"), Read(t, filepath.Join(repository.dir, "default.nix")))
	Write(t, filepath.Join(repository.dir, "default.nix"), `
		args:
		let
		  fresh = import ./set.nix args;
		  sum = n: if n == 0 then 0 else 1 + sum (n - 1);
		  long = builtins.foldl' (total: n: total + sum 1000 * 0) 0 (builtins.genList (n: n) 6000);
		in
		fresh // {
		  late = builtins.seq long (if builtins.pathExists ./late.nix then import ./late.nix { inherit fresh; } else fresh.fails);
		}
	`)
	return repository
}

// TestTreeIsRemoved removes a set's files during its evaluation, as nobody should. The results are
// in no image and are not remembered.
func TestTreeIsRemoved(t *testing.T) {
	t.Parallel()
	repository := newLateRepository(t)
	commit := repository.commit("held")
	r := StartRegistry(t, gitSettings("file://"+repository.dir)...)
	evaluations := func() (n int) {
		for _, program := range r.Programs() {
			if strings.Contains(program, "nix-instantiate") {
				n++
			}
		}
		return n
	}
	r.AwaitLog("nix: the package set is", 1)
	before := evaluations()
	answers := make(chan int, 1)
	go func() {
		status, _, _, _ := r.Get(t.Context(), "/v2/late/manifests/"+commit, v1.MediaTypeImageManifest)
		answers <- status
	}()
	Eventually(t, startTime, "it is evaluated", func() bool { return evaluations() > before })
	tree := filepath.Join(r.Dir, "*", "sources", "git-*", "trees", commit, "tree")
	found, _ := filepath.Glob(tree)
	time.Sleep(300 * time.Millisecond) // the set itself has been read
	if err := os.RemoveAll(found[0]); err != nil {
		t.Fatal(err)
	}
	if status := <-answers; status != http.StatusServiceUnavailable ||
		!strings.Contains(r.Log(), "changed or removed by somebody else") {
		t.Errorf("the answer is %d", status)
	}
	image := r.PullTag(t, "late", commit)
	r.CheckWhole(t, image)
	if got, want := image.Digest, r.PullTag(t, "quick", commit); len(image.Layers) != len(want.Layers) {
		t.Errorf("the image %s has %d layers, want %d", got, len(image.Layers), len(want.Layers))
	}
}

// TestTreeIsHeld asks for more commits than are kept while a set that looks at its files late is
// evaluated. The results are recorded for that commit, so they must be of its whole tree.
func TestTreeIsHeld(t *testing.T) {
	t.Parallel()
	repository := newLateRepository(t)
	held := repository.commit("held")
	var others []string
	for i := range 8 {
		others = append(others, repository.commit(fmt.Sprint("other ", i)))
	}
	r := StartRegistry(t, gitSettings("file://"+repository.dir)...)
	late := make(chan Image)
	go func() {
		defer close(late)
		late <- r.PullTag(t, "late", held)
	}()
	for len(r.Programs()) == 0 {
		time.Sleep(time.Millisecond)
	}
	for _, commit := range others {
		r.PullTag(t, "quick", commit)
	}
	image := <-late
	if image.Annotations[v1.AnnotationRevision] != held {
		t.Errorf("the image is of %s, want %s", image.Annotations[v1.AnnotationRevision], held)
	}
	trees, err := filepath.Glob(filepath.Join(r.Dir, "*", "sources", "git-*", "trees", "*"))
	if err != nil || len(trees) == 0 || len(trees) > 5 {
		t.Errorf("%d trees are kept (%v)", len(trees), err)
	}
}

// TestBadArchives serves a channel that moves to a commit whose archive is hostile, then to one
// whose archive is cut off, then hangs, then is whole. What was there is served all the while.
// Clients are told what is wrong with an archive, which is not fetched again for a while, or else
// to ask again; the operator is told which archive it is, too.
func TestBadArchives(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	good, bad, hostile := strings.Repeat("a", 40), strings.Repeat("b", 40), strings.Repeat("c", 40)
	var state atomic.Value
	state.Store("good")
	var fetched atomic.Int32 // of the hostile archive
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		now := state.Load().(string)
		switch {
		case request.URL.Path == "/nixos-26.05/git-revision" && now == "good":
			fmt.Fprintln(w, good)
		case request.URL.Path == "/nixos-26.05/git-revision" && now == "hostile":
			fmt.Fprintln(w, hostile)
		case request.URL.Path == "/nixos-26.05/git-revision":
			fmt.Fprintln(w, bad)
		case request.URL.Path == "/"+good+".tar.gz" || now == "mended":
			if err := writeArchive(w, packages, "nixpkgs"); err != nil {
				t.Error(err)
			}
		case now == "cut off":
			whole := httptest.NewRecorder()
			if err := writeArchive(whole, packages, "nixpkgs"); err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Length", fmt.Sprint(whole.Body.Len()))
			_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
			panic(http.ErrAbortHandler)
		case now == "hostile":
			fetched.Add(1)
			z := gzip.NewWriter(w)
			archive := tar.NewWriter(z)
			_ = archive.WriteHeader(
				&tar.Header{Name: "nixpkgs/default.nix", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink},
			)
			_ = archive.Close()
			_ = z.Close()
		default: // it hangs
			<-request.Context().Done()
		}
	}))
	defer mirror.Close()
	r := StartRegistry(
		t,
		fmt.Sprintf(`nix.packages={"channel": "nixos-26.05", "channels": %q, "archives": %q}`, mirror.URL, mirror.URL),
		"nix.refresh=1ns", "nix.build.hold=2s",
	)
	first := r.PullTag(t, "quick", "latest")
	for _, test := range []struct {
		now, commit string
		status      int
		log, told   string
	}{
		{
			"hostile", hostile, http.StatusForbidden, "out of the archive",
			"the archive of the package set at " + hostile + " can't be unpacked: ",
		},
		{"cut off", bad, http.StatusServiceUnavailable, "unexpected EOF", "ask again later"},
	} {
		now := test.now
		state.Store(now)
		// An image that is there is served as it was; one that is not can't be made from the new
		// commit.
		if got := r.PullTag(t, "quick", "latest"); got.Digest != first.Digest {
			t.Errorf("%s: latest is %s, was %s", now, got.Digest, first.Digest)
		}
		for _, path := range []string{
			"/v2/sleeps.s0/manifests/latest", "/v2/sleeps.s0/manifests/" + test.commit,
			"/v2/sleeps.s0/manifests/latest",
		} {
			status, header, body, err := r.Get(t.Context(), path, v1.MediaTypeImageManifest)
			if err != nil || status != test.status ||
				(status == http.StatusServiceUnavailable) != (header.Get("Retry-After") != "") ||
				!strings.Contains(string(body), test.told) {
				t.Errorf("%s: %s is answered with %d %v %s, %v", now, path, status, header, body, err)
			}
			if strings.Contains(string(body), mirror.URL) || strings.Contains(string(body), r.Dir) {
				t.Errorf("%s: the answer has what is the operator's: %s", now, body)
			}
		}
		if log := r.Log(); !strings.Contains(log, mirror.URL+"/"+test.commit+".tar.gz: ") ||
			!strings.Contains(log, test.log) {
			t.Errorf("%s: the log does not have the archive and %q", now, test.log)
		}
		if got := r.PullTag(t, "sleeps.s0", good); got.Annotations[v1.AnnotationRevision] != good {
			t.Errorf(
				"%s: a new image of the commit that is there is of %s", now,
				got.Annotations[v1.AnnotationRevision],
			)
		}
	}
	if n := fetched.Load(); n != 1 {
		t.Errorf("the hostile archive is fetched %d times, want once", n)
	}
	state.Store("hangs")
	hanging := make(chan struct{})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		defer close(hanging)
		_, _, _, _ = r.Get(ctx, "/v2/bulky/manifests/"+bad, v1.MediaTypeImageManifest)
	}()
	if got := r.PullTag(t, "sleeps.s1", good); got.Annotations[v1.AnnotationRevision] != good {
		t.Errorf("while a download hangs, a new image is of %s", got.Annotations[v1.AnnotationRevision])
	}
	leave()
	<-hanging
	mirror.CloseClientConnections()
	state.Store("mended")
	Eventually(t, commandTime, "the download that hung has ended", func() bool {
		status, _, _, err := r.Get(t.Context(), "/v2/quick/manifests/"+bad, v1.MediaTypeImageManifest)
		return err == nil && status == http.StatusOK
	})
	if got := r.PullTag(t, "quick", bad); got.Annotations[v1.AnnotationRevision] != bad {
		t.Errorf("with the archive mended, the image is of %s", got.Annotations[v1.AnnotationRevision])
	}
	if got := r.PullTag(t, "sleeps.s2", "latest"); got.Annotations[v1.AnnotationRevision] != bad {
		t.Errorf("with the archive mended, latest is of %s", got.Annotations[v1.AnnotationRevision])
	}
}

// What is pushed to a git repository is seen at once by who is told of it, and by the next pull of
// what could not be made before.
func TestRefreshOfGit(t *testing.T) {
	t.Parallel()
	repository := newRepository(t)
	one := repository.commit("one")
	token := filepath.Join(Dir(t), "token")
	Write(t, token, "a secret of some length\n")
	r := StartRegistry(t, fmt.Sprintf(`nix.packages={"git": {"url": "file://%s", "ref": "main"}}`, repository.dir),
		"nix.refresh=1h", "nix.refreshtokenfile="+token)
	isAt := func(revision string) bool {
		return r.PullTag(t, "quick", "latest").Annotations[v1.AnnotationRevision] == revision
	}
	if !isAt(one) {
		t.Error("it is not at the first commit")
	}

	two := repository.commit("two")
	if !isAt(one) {
		t.Error("nobody told of it, and an hour is not over")
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.Addr+"/-/refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Gitlab-Token", "a secret of some length")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		t.Errorf("the hook is answered %s", answer.Status)
	}
	Eventually(t, commandTime, "the hook's commit is served", func() bool { return isAt(two) })

	three := repository.commit("three")
	Exec(t, "env", append(r.Env, "registry", "nix", "refresh", "--config", r.ConfigFile())...)
	Eventually(t, commandTime, "the command's commit is served", func() bool { return isAt(three) })

	// Nobody tells of the commit that mends what could not be had.
	if status, _, _, err := r.Get(t.Context(), "/v2/mended/manifests/latest", v1.MediaTypeImageManifest); err != nil ||
		status != http.StatusNotFound {
		t.Errorf("the package that is not there yet is answered %d, %v", status, err)
	}
	set, err := os.ReadFile(filepath.Join(repository.dir, "default.nix"))
	if err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(repository.dir, "old.nix"), string(set))
	Write(t, filepath.Join(repository.dir, "default.nix"), "args: let old = import ./old.nix args; in old // { mended = old.quick; }\n")
	repository.commit("four")
	Eventually(t, commandTime, "what was mended is served", func() bool {
		status, _, _, err := r.Get(t.Context(), "/v2/mended/manifests/latest", v1.MediaTypeImageManifest)
		return err == nil && status == http.StatusOK
	})
}
