package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// archive makes a .tar.gz of entries. The content of a file without a type is its own name.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag, e.Size = tar.TypeReg, int64(len(e.Name))
		}
		if err := w.WriteHeader(&e); err != nil {
			t.Fatal(err)
		}
		if e.Typeflag == tar.TypeReg {
			fmt.Fprint(w, e.Name)
		}
	}
	for _, c := range []func() error{w.Close, z.Close} {
		if err := c(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// A mirror serves channels and archives, and counts requests.
type mirror struct {
	mu        sync.Mutex
	channels  map[string]string
	archives  map[string][]byte
	serve     http.HandlerFunc // archives instead, if not nil
	down      bool
	silent    bool // nothing is answered
	requests  atomic.Int32
	downloads atomic.Int32
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.requests.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silent {
		<-r.Context().Done()
		return
	}
	var content []byte
	if name, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/channels/"), "/git-revision"); ok {
		content = []byte(m.channels[name])
	} else if name, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/archive/"), ".tar.gz"); ok {
		m.downloads.Add(1)
		if serve := m.serve; serve != nil {
			m.mu.Unlock()
			defer m.mu.Lock()
			serve(w, r)
			return
		}
		content = m.archives[name]
	}
	switch {
	case m.down:
		http.Error(w, "down", http.StatusBadGateway)
	case len(content) == 0:
		http.NotFound(w, r)
	default:
		_, _ = w.Write(content)
	}
}

func (m *mirror) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

var (
	commitA = strings.Repeat("a", 40)
	commitB = strings.Repeat("b", 40)
	day     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// nixpkgs is the content of a commit's archive.
func nixpkgs(commit string) []tar.Header {
	return []tar.Header{
		{Name: "nixpkgs-" + commit + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: day},
		{Name: "nixpkgs-" + commit + "/default.nix", Mode: 0o644, ModTime: day},
		{Name: "nixpkgs-" + commit + "/pkgs/run.sh", Mode: 0o755, ModTime: day},
		{Name: "nixpkgs-" + commit + "/link", Linkname: "default.nix", Typeflag: tar.TypeSymlink, ModTime: day},
	}
}

func newMirror(t *testing.T) (*mirror, ChannelOptions) {
	t.Helper()
	m := &mirror{channels: map[string]string{"nixos-26.05": commitA + "\n"}, archives: map[string][]byte{}}
	for _, commit := range []string{commitA, commitB} {
		m.archives[commit] = archive(t, nixpkgs(commit)...)
	}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	return m, ChannelOptions{
		Name:     "nixos-26.05",
		Channels: server.URL + "/channels/",
		Archives: server.URL + "/archive",
		Tags:     Tags{AnyTag},
		Dir:      t.TempDir(),
		Refresh:  time.Hour,
	}
}

func channel(t *testing.T, options ChannelOptions) *Channel {
	t.Helper()
	c, err := NewChannel(options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChannel(t *testing.T) {
	m, options := newMirror(t)
	c := channel(t, options)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			got, err := c.Pin(t.Context(), Latest)
			if err != nil || got.Revision != commitA || got.Name != "channel:nixos-26.05" || !got.Date.Equal(day) ||
				got.Stale != nil {
				t.Errorf("Pin = %+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	got, err := c.Pin(t.Context(), Latest)
	if err != nil {
		t.Fatal(err)
	}
	if text := read(t, got.Path+"/default.nix"); text != "nixpkgs-"+commitA+"/default.nix" {
		t.Errorf("default.nix holds %q", text)
	}
	if info, err := os.Stat(got.Path + "/pkgs/run.sh"); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
	if target, err := os.Readlink(got.Path + "/link"); err != nil || target != "default.nix" {
		t.Errorf("link: %q, %v", target, err)
	}

	before := m.requests.Load()
	for _, tag := range []string{Latest, "nixos-26.05", commitA} {
		if again, err := c.Pin(t.Context(), tag); err != nil || again.Revision != commitA || again.Path != got.Path {
			t.Errorf("Pin(%q) = %+v, %v", tag, again, err)
		}
	}
	if n := m.requests.Load() - before; n != 0 {
		t.Errorf("%d requests for what is known", n)
	}
	if other, err := c.Pin(t.Context(), commitB); err != nil || other.Revision != commitB || other.Name != "nixpkgs" {
		t.Errorf("Pin of a commit = %+v, %v", other, err)
	}
	for _, tag := range []string{"nixos-99.99", strings.Repeat("c", 40), "main", "nixos-../../x", "v1.0", ""} {
		if _, err := c.Pin(t.Context(), tag); !errors.Is(err, ErrUnknownTag) {
			t.Errorf("Pin(%q) = %v, want ErrUnknownTag", tag, err)
		}
	}
}

func TestChannelMoves(t *testing.T) {
	m, options := newMirror(t)
	options.Refresh = time.Nanosecond
	c := channel(t, options)
	if first, err := c.Pin(t.Context(), Latest); err != nil || first.Revision != commitA {
		t.Fatalf("Pin = %+v, %v", first, err)
	}
	m.set(func() { m.channels["nixos-26.05"] = commitB })
	if second, err := c.Pin(t.Context(), Latest); err != nil || second.Revision != commitB {
		t.Errorf("after the channel moved, Pin = %+v, %v", second, err)
	}
	m.set(func() { m.down = true })
	for name, c := range map[string]*Channel{"the same process": c, "another process": channel(t, options)} {
		if got, err := c.Pin(t.Context(), Latest); err != nil || got.Revision != commitB || got.Stale == nil {
			t.Errorf("with the remote down, in %s, Pin = %+v, %v, want the last revision, stale", name, got, err)
		}
	}
	if _, err := c.Pin(t.Context(), "nixos-unstable"); err == nil || errors.Is(err, ErrUnknownTag) {
		t.Errorf("with the remote down, Pin of a channel never seen = %v", err)
	}
	m.set(func() { m.down = false; delete(m.channels, "nixos-26.05") })
	if _, err := c.Pin(t.Context(), Latest); !errors.Is(err, ErrUnknownTag) {
		t.Errorf("once the channel is gone, Pin = %v, want ErrUnknownTag", err)
	}
	if n := m.downloads.Load(); n != 2 {
		t.Errorf("%d downloads, want one for each commit", n)
	}
}

func TestChannelCurrent(t *testing.T) {
	m, options := newMirror(t)
	options.Refresh = time.Hour
	c := channel(t, options)
	if got, ok := c.Current(Latest); ok {
		t.Errorf("Current = %s before anybody has looked the channel up", got)
	}
	if _, err := c.Pin(t.Context(), Latest); err != nil {
		t.Fatal(err)
	}
	m.set(func() { m.down = true })
	for tag, want := range map[string]string{
		Latest: commitA, "nixos-26.05": commitA, commitB: commitB, "nixos-unstable": "", "nonsense": "",
	} {
		if got, ok := c.Current(tag); ok != (want != "") || got != want {
			t.Errorf("Current(%q) = %s, %t, want %q", tag, got, ok, want)
		}
	}
	options.Refresh = time.Nanosecond
	if got, ok := channel(t, options).Current(Latest); ok {
		t.Errorf("Current = %s when it is time to look the channel up again", got)
	}
	options.Name = commitB
	if got, ok := channel(t, options).Current(Latest); !ok || got != commitB {
		t.Errorf("Current of a pinned commit = %s, %t", got, ok)
	}
}

func TestNewChannelRefuses(t *testing.T) {
	for _, options := range []ChannelOptions{
		{}, {Name: "../x"}, {Name: "nixos-26.05/.."}, {Name: "abc"},
		{Name: "nixos-26.05", Channels: "file:///etc"}, {Name: "nixos-26.05", Archives: "x"},
	} {
		options.Dir = t.TempDir()
		if _, err := NewChannel(options); err == nil {
			t.Errorf("NewChannel(%+v) gives no error", options)
		}
	}
}

// A remote is a repository to fetch from.
type remote struct {
	t   *testing.T
	dir string
}

func newRemote(t *testing.T) remote {
	t.Helper()
	needs.Tool(t, "git")
	r := remote{t, t.TempDir()}
	r.git("init", "--quiet", "--initial-branch=main")
	r.commit("default.nix", "{ one = 1; }")
	return r
}

func (r remote) git(args ...string) string {
	r.t.Helper()
	command := exec.CommandContext(
		r.t.Context(), "git",
		append([]string{"-C", r.dir, "-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
	command.Env = append(
		os.Environ(), "GIT_COMMITTER_DATE="+day.Format(time.RFC3339),
		"GIT_AUTHOR_DATE="+day.Format(time.RFC3339), "GIT_CONFIG_GLOBAL=/dev/null",
	)
	output, err := command.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %q: %v: %s", args, err, output)
	}
	return strings.TrimSpace(string(output))
}

func (r remote) commit(file, content string) string {
	r.t.Helper()
	write(r.t, filepath.Join(r.dir, file), content)
	r.git("add", ".")
	r.git("commit", "--quiet", "-m", fmt.Sprintf("%.40q", content))
	return r.git("rev-parse", "HEAD")
}

func newGit(t *testing.T, options GitOptions) *Git {
	t.Helper()
	runner, _ := proc.New()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	g, err := NewGit(runner, options)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGit(t *testing.T) {
	r := newRemote(t)
	one := r.git("rev-parse", "HEAD")
	r.git("tag", "-a", "v1", "-m", "annotated")
	r.git("tag", "light")
	r.git("branch", "v1") // the tag of that name goes first
	two := r.commit("default.nix", "{ two = 2; }")
	r.git("checkout", "--quiet", "-b", "side", one)
	r.git("commit", "--quiet", "--allow-empty", "-m", "v1 moves")
	side := r.commit("default.nix", "{ three = 3; }")
	r.git("branch", "--force", "v1", "side")
	r.git("checkout", "--quiet", "main")

	for _, url := range []string{r.dir, "file://" + r.dir} {
		g := newGit(t, GitOptions{URL: url, Refresh: time.Nanosecond})
		for _, test := range []struct{ tag, want, content string }{
			{Latest, two, "{ two = 2; }"},
			{"main", two, "{ two = 2; }"},
			{"side", side, "{ three = 3; }"},
			{"v1", one, "{ one = 1; }"},
			{"light", one, "{ one = 1; }"},
			{one, one, "{ one = 1; }"},
			{side, side, "{ three = 3; }"},
		} {
			got, err := g.Pin(t.Context(), test.tag)
			if err != nil {
				t.Errorf("%s: Pin(%q): %v", url, test.tag, err)
				continue
			}
			if content := read(t, got.Path+"/default.nix"); got.Revision != test.want || content != test.content ||
				!got.Date.Equal(day) ||
				got.Name != url {
				t.Errorf("%s: Pin(%q) = %+v with %q, want %s", url, test.tag, got, content, test.want)
			}
			if entries, err := os.ReadDir(got.Path); err != nil || len(entries) != 1 {
				t.Errorf("%s: the tree has %v, want default.nix alone", url, entries)
			}
		}
		for _, tag := range []string{"nosuch", "--upload-pack=touch", "-x", "..", "HEAD~1", "a b", "main^{}"} {
			if _, err := g.Pin(t.Context(), tag); !errors.Is(err, ErrUnknownTag) {
				t.Errorf("%s: Pin(%q) = %v, want ErrUnknownTag", url, tag, err)
			}
		}
	}
	if got, err := newGit(t, GitOptions{URL: r.dir, Ref: "side"}).Pin(t.Context(), Latest); err != nil ||
		got.Revision != side {
		t.Errorf("Pin of another ref = %+v, %v", got, err)
	}
	if got, ok := newGit(t, GitOptions{URL: r.dir, Ref: one}).Current(Latest); !ok || got != one {
		t.Errorf("Current of a pinned commit = %s, %t", got, ok)
	}
}

// A revision that clients choose by tag differs from the operator's own, whose name may also be a
// tag.
func TestOrigin(t *testing.T) {
	r := newRemote(t)
	one := r.git("rev-parse", "HEAD")
	two := r.commit("default.nix", "{ two = 2; }")
	r.git("branch", "side", one)
	_, options := newMirror(t)
	other := options
	other.Name, other.Dir = commitB, t.TempDir()
	git := newGit(t, GitOptions{URL: r.dir, Ref: "main", Refresh: time.Hour})
	for _, test := range []struct {
		source Source
		tag    string
		chosen bool
	}{
		{git, one, false},
		{git, Latest, true},
		{git, two, true},
		{git, "main", true},
		{git, "side", false},
		{newGit(t, GitOptions{URL: r.dir, Ref: one}), one, true},
		{newGit(t, GitOptions{URL: r.dir, Ref: one}), "main", false},
		{channel(t, options), commitB, false},
		{channel(t, options), Latest, true},
		{channel(t, other), Latest, true},
		{channel(t, other), commitA, false},
	} {
		got, err := test.source.Pin(t.Context(), test.tag)
		if err != nil || (got.Origin != "") != test.chosen {
			t.Errorf(
				"%T.Pin(%s) has the origin %q, %v; the operator has chosen it: %v", test.source, test.tag,
				got.Origin, err, test.chosen,
			)
		}
	}
}

// A repository may have many refs that nobody asks for.
func TestGitManyRefs(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	one := r.git("rev-parse", "HEAD")
	r.git("tag", "-a", "v1", "-m", "annotated")
	two := r.commit("default.nix", "{ two = 2; }")
	r.git("pack-refs", "--all")
	packed := bytes.NewBufferString("# pack-refs with: peeled fully-peeled sorted \n")
	fmt.Fprintf(packed, "%s refs/heads/main\n", two)
	for i := range 300_000 {
		fmt.Fprintf(packed, "%s refs/pull/%06d/head\n", one, i)
	}
	fmt.Fprintf(packed, "%s refs/tags/v1\n^%s\n", r.git("rev-parse", "v1"), one)
	if err := os.WriteFile(filepath.Join(r.dir, ".git/packed-refs"), packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"", "main"} {
		g := newGit(t, GitOptions{URL: "file://" + r.dir, Ref: ref})
		for tag, want := range map[string]string{Latest: two, "main": two, "v1": one, two: two} {
			if got, err := g.Pin(t.Context(), tag); err != nil || got.Revision != want {
				t.Errorf("with ref %q, Pin(%s) = %+v, %v, want %s", ref, tag, got, err, want)
			}
		}
		if _, err := g.Pin(t.Context(), "nosuch"); !errors.Is(err, ErrUnknownTag) {
			t.Errorf("with ref %q, Pin of what is not there is %v", ref, err)
		}
	}
}

func TestGitMovesAndVanishes(t *testing.T) {
	r := newRemote(t)
	dir := t.TempDir()
	g := newGit(t, GitOptions{URL: r.dir, Refresh: time.Nanosecond, Dir: dir})
	first, err := g.Pin(t.Context(), Latest)
	if err != nil {
		t.Fatal(err)
	}
	want := r.commit("default.nix", "{ two = 2; }")
	second, err := g.Pin(t.Context(), Latest)
	if err != nil || second.Revision != want || second.Revision == first.Revision {
		t.Errorf("after a commit, Pin = %+v, %v", second, err)
	}
	if err := os.Rename(r.dir, r.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(r.dir+"-away", r.dir)
	another := newGit(t, GitOptions{URL: r.dir, Refresh: time.Nanosecond, Dir: dir})
	for name, g := range map[string]*Git{"the same process": g, "another process": another} {
		if got, err := g.Pin(t.Context(), Latest); err != nil || got.Revision != want || got.Stale == nil {
			t.Errorf("with the remote gone, in %s, Pin = %+v, %v", name, got, err)
		}
	}
	if _, err := g.Pin(t.Context(), "side"); err == nil || errors.Is(err, ErrUnknownTag) {
		t.Errorf("with the remote gone, Pin of a branch never seen = %v", err)
	}
}

// A request to a silent server ends. Meanwhile revisions that are there are served.
func TestGitHangs(t *testing.T) {
	r := newRemote(t)
	r.git("update-server-info")
	var silent atomic.Bool
	files := http.FileServer(http.Dir(filepath.Join(r.dir, ".git")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if silent.Load() {
			<-request.Context().Done()
			return
		}
		files.ServeHTTP(w, request)
	}))
	defer server.Close()
	g := newGit(t, GitOptions{URL: server.URL, Refresh: time.Nanosecond})
	first, err := g.Pin(t.Context(), Latest)
	if err != nil {
		t.Fatal(err)
	}
	silent.Store(true)
	g.silence = time.Second
	if got, err := g.Pin(t.Context(), Latest); err != nil || got.Revision != first.Revision || got.Stale == nil {
		t.Errorf("Pin = %+v, %v, want the last revision, stale", got, err)
	}
	if _, err := g.Pin(t.Context(), strings.Repeat("c", 40)); err == nil || errors.Is(err, ErrUnknownTag) {
		t.Errorf("Pin of a commit that is not there = %v", err)
	}
	if _, err := g.Pin(t.Context(), first.Revision); err != nil {
		t.Errorf("Pin of a commit that is: %v", err)
	}
}

// Checking a repository out runs nothing of it.
func TestGitRunsNothing(t *testing.T) {
	r := newRemote(t)
	marker := filepath.Join(t.TempDir(), "marker")
	write(t, filepath.Join(r.dir, ".gitattributes"), "* filter=evil export-ignore\n")
	r.git("config", "filter.evil.smudge", "touch "+marker)
	r.git("config", "filter.evil.clean", "cat")
	write(t, filepath.Join(r.dir, ".git/hooks/post-checkout"), "#!/bin/sh\ntouch "+marker+"\n")
	if err := os.Chmod(filepath.Join(r.dir, ".git/hooks/post-checkout"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.commit("x.nix", "x")
	got, err := newGit(t, GitOptions{URL: r.dir}).Pin(t.Context(), Latest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a command of the repository's was run")
	}
	if text := read(t, got.Path+"/x.nix"); text != "x" {
		t.Errorf("x.nix holds %q", text)
	}
}

// submodules makes a repository with a submodule that has a submodule itself. It returns the three,
// and the commit of the first.
func submodules(t *testing.T, url func(inner, repository string) string) (outer, middle, inner remote, commit string) {
	t.Helper()
	outer, middle, inner = newRemote(t), newRemote(t), newRemote(t)
	inner.commit("inner.nix", "inner")
	add := func(r, submodule remote, path string) string {
		r.git(
			"-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--name", "a name", "--",
			submodule.dir, path,
		)
		r.git("config", "--file", ".gitmodules", "submodule.a name.url", url(submodule.dir, r.dir))
		return r.commit("with.nix", path)
	}
	add(middle, inner, "deep/inner")
	commit = add(outer, middle, "middle")
	return outer, middle, inner, commit
}

// TestGitFilesAsCommitted sets git up as on machines of people who edit files, and as in CI images
// that have git LFS. The files of a commit do not depend on that.
func TestGitFilesAsCommitted(t *testing.T) {
	outer, middle, inner, _ := submodules(t, func(submodule, _ string) string { return submodule })
	const pointer = "version https://git-lfs.github.com/spec/v1\n" +
		"oid sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nsize 12345\n"
	for _, r := range []remote{inner, middle, outer} {
		for name, content := range map[string]string{
			".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n*.id ident\n*.enc working-tree-encoding=UTF-16\n" +
				"*.eol text eol=crlf\n*.old crlf\n*.auto text=auto\n",
			"data.bin": pointer, "not.bin": "content\n", "text": "a\nb\n", "x.id": "$Id$\n",
			"x.enc": "text\n", "x.eol": "a\nb\n", "x.old": "a\n", "x.auto": "a\n",
		} {
			write(t, filepath.Join(r.dir, name), content)
		}
		if err := os.Symlink("text", filepath.Join(r.dir, "link")); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(r.dir, ".git/info"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(
			t, filepath.Join(r.dir, ".git/info/attributes"),
			"* -filter -text -eol -ident -working-tree-encoding\n",
		) // blobs are what is written here
		r.git("add", ".")
		if r != inner {
			r.git(
				"-c", "protocol.file.allow=always", "submodule", "--quiet", "foreach",
				"git fetch --quiet --recurse-submodules=no && git checkout --quiet --force origin/main",
			)
			r.git("add", ".")
		}
		r.git("commit", "--quiet", "-m", "all kinds")
	}
	files := func(dir string) (content []string) {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text := "a link"
			if entry.Type().IsRegular() {
				text = read(t, path)
			}
			content = append(content, fmt.Sprintf("%s %v %q", strings.TrimPrefix(path, dir), entry.Type(), text))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	attributes := filepath.Join(t.TempDir(), "attributes")
	write(t, attributes, "* text eol=crlf ident filter=loud\n")
	var want []string
	for _, test := range []struct{ name, config string }{
		{"nothing", ""},
		{"ends of lines", "[core]\n\tautocrlf = true\n\teol = crlf\n"},
		{"attributes", "[core]\n\tattributesFile = " + attributes + "\n[filter \"loud\"]\n\tsmudge = tr a-z A-Z\n"},
		{"no links, and a part alone", "[core]\n\tsymlinks = false\n\tsparseCheckout = true\n"},
		{
			"LFS",
			"[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge -- %f\n\tprocess = false\n\trequired = true\n",
		},
		{"a template", "[init]\n\ttemplateDir = /nonexistent\n"},
	} {
		for _, level := range []string{"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"} {
			t.Run(test.name+" in "+level, func(t *testing.T) {
				config := filepath.Join(t.TempDir(), "config")
				write(t, config, test.config)
				t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
				t.Setenv(level, config)
				got, err := newGit(t, GitOptions{URL: outer.dir, Submodules: true}).Pin(t.Context(), Latest)
				if err != nil {
					t.Fatal(err)
				}
				if found := files(got.Path); want == nil {
					want = found
				} else if !slices.Equal(found, want) {
					t.Errorf("the files are\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
				}
				if want := []string{"data.bin", "middle/data.bin", "middle/deep/inner/data.bin"}; !slices.Equal(
					got.Pointers, want,
				) {
					t.Errorf("pointers are %q, want %q", got.Pointers, want)
				}
			})
		}
	}
	for _, file := range []string{
		`/middle/deep/inner/x.id ---------- "$Id$\n"`, `/x.enc ---------- "text\n"`,
		`/x.eol ---------- "a\nb\n"`, `/link L--------- "a link"`,
	} {
		if !slices.Contains(want, file) {
			t.Errorf("the files are %q, want %s among them", want, file)
		}
	}
}

func TestGitSubmodules(t *testing.T) {
	absolute := func(submodule, _ string) string { return submodule }
	relative := func(submodule, repository string) string {
		path, err := filepath.Rel(repository, submodule)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Parallel()
	ways := map[string]func(string, string) string{"absolute URLs": absolute, "relative URLs": relative}
	for name, url := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outer, middle, inner, commit := submodules(t, url)
			middle.commit("later.nix", "is not the recorded commit")
			inner.git("checkout", "--quiet", "-b", "other")
			inner.git("commit", "--quiet", "--amend", "-m", "the recorded commit is not the tip of any branch")
			inner.git("branch", "--quiet", "-D", "main")
			inner.git("tag", "recorded", "other@{1}")

			dir := t.TempDir()
			got, err := newGit(
				t, GitOptions{URL: "file://" + outer.dir, Dir: dir, Submodules: true},
			).Pin(t.Context(), Latest)
			if err != nil {
				t.Fatal(err)
			}
			if got.Revision != commit || len(got.Absent) > 0 {
				t.Errorf("Pin = %+v, want %s and nothing absent", got, commit)
			}
			var files []string
			err = filepath.WalkDir(got.Path, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					files = append(files, strings.TrimPrefix(path, got.Path+"/"))
				}
				return err
			})
			want := []string{
				".gitmodules", "default.nix", "middle/.gitmodules", "middle/deep/inner/default.nix", "middle/deep/inner/inner.nix", "middle/default.nix",
				"middle/with.nix", "with.nix",
			}
			if err != nil || !slices.Equal(files, want) {
				t.Errorf("the tree has %q, %v, want %q", files, err, want)
			}

			// The same commit without them is another tree, which says what it lacks, also when it
			// is there already.
			without := newGit(t, GitOptions{URL: "file://" + outer.dir, Dir: dir})
			for range 2 {
				off, err := without.Pin(t.Context(), Latest)
				if err != nil || !slices.Equal(off.Absent, []string{"middle"}) || off.Path == got.Path {
					t.Errorf("without submodules, Pin = %+v, %v", off, err)
				}
				if entries, err := os.ReadDir(off.Path + "/middle"); err != nil || len(entries) > 0 {
					t.Errorf("without submodules, middle has %v, %v", entries, err)
				}
			}
		})
	}
}

// A server that gives out no single commits sends everything, of submodules too.
func TestGitSubmodulesOfAPlainServer(t *testing.T) {
	t.Parallel()
	outer, middle, inner, commit := submodules(
		t, func(submodule, _ string) string { return "../../" + filepath.Base(submodule) + "/.git" },
	)
	for _, r := range []remote{outer, middle, inner} {
		r.git("update-server-info")
	}
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(outer.dir))))
	defer server.Close()
	url := server.URL + "/" + filepath.Base(outer.dir) + "/.git"
	got, err := newGit(t, GitOptions{URL: url, Submodules: true}).Pin(t.Context(), Latest)
	if err != nil || got.Revision != commit {
		t.Fatalf("Pin = %+v, %v, want %s", got, err, commit)
	}
	if text := read(t, got.Path+"/middle/deep/inner/inner.nix"); text != "inner" {
		t.Errorf("a submodule's submodule has %q", text)
	}
}

// Writers to the repository can't run anything here, write outside the tree, or read anything but
// submodules.
func TestGitHostileSubmodules(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(t.TempDir(), "marker")
	for _, test := range []struct {
		name string
		harm func(r remote)
	}{
		{"a URL that is an option", func(r remote) { r.set("url", "--upload-pack=touch "+marker) }},
		{"a URL that is an option behind dots", func(r remote) { r.set("url", "./-u./x") }},
		{"a transport that is a command", func(r remote) { r.set("url", "ext::touch "+marker) }},
		{"a host that is an option", func(r remote) { r.set("url", "ssh://-oProxyCommand=touch "+marker+"/x") }},
		{"a URL with a line break", func(r remote) { r.set("url", "https://127.0.0.1:1/\nhost=example.org") }},
		{"an update that is a command", func(r remote) { r.set("update", "!touch "+marker) }},
		{"a name that climbs", func(r remote) { r.replace("a name", "../../../hostile") }},
		{"a path that is an option", func(r remote) { r.set("path", "--x") }},
		{"a path that climbs", func(r remote) { r.set("path", "../../hostile") }},
		{"a commit that is nowhere", func(r remote) {
			r.git("update-index", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",middle")
			r.git("commit", "--quiet", "-m", "hostile")
		}},
		{"no .gitmodules", func(r remote) {
			r.git("rm", "--quiet", "--force", "--cached", ".gitmodules")
			r.git("commit", "--quiet", "-m", "x")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			outer, _, _, _ := submodules(t, func(submodule, _ string) string { return submodule })
			test.harm(outer)
			dir := t.TempDir()
			got, err := newGit(
				t, GitOptions{URL: outer.dir, Dir: filepath.Join(dir, "git"), Submodules: true},
			).Pin(t.Context(), Latest)
			if err == nil || errors.Is(err, ErrUnknownTag) {
				t.Errorf("Pin = %+v, %v", got, err)
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("a command of the repository's was run")
			}
			entries, err := os.ReadDir(filepath.Join(dir, "git", "trees-submodules"))
			if err != nil || len(entries) > 0 {
				t.Errorf("%v is left, %v", entries, err)
			}
			_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, _ error) error {
				if entry.Name() == "hostile" {
					t.Errorf("%s was made", path)
				}
				return nil
			})
			// Without submodules it is a set like others.
			if _, err := newGit(t, GitOptions{URL: outer.dir}).Pin(t.Context(), Latest); err != nil {
				t.Errorf("without submodules, Pin = %v", err)
			}
		})
	}
}

// A repository elsewhere can't make this machine's repositories be read.
func TestGitRemoteSubmodulesAreRemote(t *testing.T) {
	t.Parallel()
	outer, _, _, _ := submodules(t, func(submodule, _ string) string { return submodule })
	outer.git("update-server-info")
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(outer.dir, ".git"))))
	defer server.Close()
	if _, err := newGit(t, GitOptions{URL: server.URL}).Pin(t.Context(), Latest); err != nil {
		t.Fatal(err)
	}
	_, err := newGit(t, GitOptions{URL: server.URL, Submodules: true}).Pin(t.Context(), Latest)
	if err == nil || !strings.Contains(err.Error(), "transport 'file' not allowed") {
		t.Errorf("Pin = %v, want it not allowed", err)
	}
}

// set writes a value of the submodule into .gitmodules.
func (r remote) set(key, value string) {
	r.t.Helper()
	r.git("config", "--file", ".gitmodules", "submodule.a name."+key, value)
	r.git("commit", "--quiet", "--all", "-m", "hostile")
}

// replace replaces text of .gitmodules.
func (r remote) replace(old, text string) {
	r.t.Helper()
	name := filepath.Join(r.dir, ".gitmodules")
	write(r.t, name, strings.ReplaceAll(read(r.t, name), old, text))
	r.git("commit", "--quiet", "--all", "-m", "hostile")
}

// Git uses the ssh that it is set up with, which asks nobody in any case.
func TestGitSSH(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, name := range []string{"ssh", "other-ssh"} {
		write(
			t, filepath.Join(dir, name),
			"#!/bin/sh\necho "+name+" \"$@\" $SSH_ASKPASS $SSH_ASKPASS_REQUIRE $GIT_TERMINAL_PROMPT >"+log+"\nexit 255\n",
		)
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const asksNobody = " git@127.0.0.1 git-upload-pack 'x.git' false force 0\n"
	for _, test := range []struct{ name, variable, config, want string }{
		{"nothing", "", "", "ssh -oBatchMode=yes -oConnectTimeout=30 -oServerAliveInterval=15"},
		{"a variable", "other-ssh -i key", "", "other-ssh -i key"},
		{"the user's configuration", "", "other-ssh -i configured", "other-ssh -i configured"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			t.Setenv("GIT_SSH_COMMAND", test.variable)
			t.Setenv("GIT_SSH_VARIANT", "simple")
			t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(dir, "config"))
			write(t, filepath.Join(dir, "config"), "")
			if test.config != "" {
				write(t, filepath.Join(dir, "config"), "[core]\n\tsshCommand = "+test.config+"\n")
			}
			if _, err := newGit(t, GitOptions{URL: "git@127.0.0.1:x.git"}).Pin(t.Context(), Latest); err == nil {
				t.Error("Pin gives no error")
			}
			if got := read(t, log); got != test.want+asksNobody {
				t.Errorf("git runs %q, want %q", got, test.want+asksNobody)
			}
		})
	}
}

func TestNewGitRefuses(t *testing.T) {
	runner, _ := proc.New()
	for _, test := range []struct {
		options GitOptions
		secret  string
	}{
		{GitOptions{}, ""},
		{GitOptions{URL: "--upload-pack=touch"}, ""},
		{GitOptions{URL: "ext::sh -c touch"}, ""},
		{GitOptions{URL: "ssh://-oProxyCommand=touch/x"}, ""},
		{GitOptions{URL: "git@-oProxyCommand=x:y"}, ""},
		{GitOptions{URL: "ftp://user:secret@example.org/x"}, "secret"},
		{GitOptions{URL: "https://user:secret@exa mple.org/x"}, "secret"},
		{GitOptions{URL: "relative/path"}, ""},
		{GitOptions{URL: "/repo", Ref: "--all"}, ""},
		{GitOptions{URL: "/repo", Ref: "a:b"}, ""},
	} {
		test.options.Dir = t.TempDir()
		_, err := NewGit(runner, test.options)
		if err == nil || test.secret != "" && strings.Contains(err.Error(), test.secret) {
			t.Errorf("NewGit(%+v) = %v", test.options, err)
		}
	}
	for text, want := range map[string]string{
		"https://user:secret@example.org/x.git": "https://example.org/x.git",
		"ssh://git@example.org/x.git":           "ssh://example.org/x.git",
		"git@example.org:x.git":                 "git@example.org:x.git",
	} {
		if got, err := checkGitURL(text); err != nil || got != want {
			t.Errorf("the name of %s is %q, %v, want %q", text, got, err, want)
		}
	}
}

// A new commit is fetched and written once, however many want it at a time, also in two processes.
func TestGitHerd(t *testing.T) {
	r := newRemote(t)
	commit := r.git("rev-parse", "HEAD")
	options := func() GitOptions {
		return GitOptions{URL: r.dir, Tags: Tags{AnyTag}, Dir: t.TempDir()}
	}
	pin := func(g *Git) {
		if _, err := g.Pin(t.Context(), commit); err != nil {
			t.Error(err)
		}
	}
	one := newGit(t, options())
	pin(one)
	alone := one.runner.Started()
	if alone == 0 {
		t.Fatal("nothing was started")
	}

	shared := options()
	processes := []*Git{newGit(t, shared), newGit(t, shared)}
	var herd sync.WaitGroup
	for i := range 40 {
		herd.Go(func() { pin(processes[i%2]) })
	}
	herd.Wait()
	if started := processes[0].runner.Started() + processes[1].runner.Started(); started != alone {
		t.Errorf("%d programs were started, want %d as for one", started, alone)
	}
}
