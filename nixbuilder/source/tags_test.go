package source

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// memories are the Memory of all replicas.
type memories struct{ commits sync.Map }

func (m *memories) Seen(_ context.Context, commit string) (bool, error) {
	_, ok := m.commits.Load(commit)
	return ok, nil
}

func (m *memories) See(_ context.Context, commit string) error {
	m.commits.Store(commit, true)
	return nil
}

// A proposed repository gives out a commit that nobody with a right to write has put there, as
// large hosts do.
type proposed struct {
	remote
	old, tagged, tip, side, stranger string // commits
}

func newProposed(t *testing.T) proposed {
	t.Helper()
	p := proposed{remote: newRemote(t)}
	p.old = p.git("rev-parse", "HEAD")
	p.tagged = p.commit("default.nix", "{ tagged = 1; }")
	p.git("tag", "-a", "v1", "-m", "annotated")
	p.tip = p.commit("default.nix", "{ harmless = 1; }")
	p.git("checkout", "--quiet", "--detach")
	p.stranger = p.commit("default.nix", "{ hostile = 1; }")
	p.git("update-ref", "refs/pull/7/head", p.stranger)
	p.git("checkout", "--quiet", "-b", "side", p.old)
	p.side = p.commit("side.nix", "{ side = 1; }")
	p.git("checkout", "--quiet", "main")
	p.git("config", "uploadpack.allowAnySHA1InWant", "true")
	return p
}

// whole lists the repositories in a directory that have a commit.
func whole(t *testing.T, dir, commit string) (has []string) {
	t.Helper()
	repositories, err := filepath.Glob(filepath.Join(dir, "*", "*.git"))
	if err != nil {
		t.Fatal(err)
	}
	for _, repository := range append(repositories, filepath.Join(dir, "objects.git")) {
		if _, err := os.Stat(repository); err != nil {
			continue
		}
		r, _ := proc.New()
		if _, err := r.Run(
			t.Context(),
			proc.Command{
				Program: "git", Args: []string{"--git-dir=" + repository, "cat-file", "-e", commit},
				Env: []string{"GIT_ALLOW_PROTOCOL=none"},
			},
		); err == nil {
			has = append(has, filepath.Base(repository))
		}
	}
	return has
}

// TestGitTags chooses branches, tags and commits. Choosing a commit runs its code, so nobody may
// choose those of strangers unless the operator says so.
func TestGitTags(t *testing.T) {
	t.Parallel()
	p := newProposed(t)
	const yes, no, nothing = "yes", "no", "nothing"
	for _, test := range []struct {
		name string
		tags Tags
		want map[string]string
	}{
		{"default", nil, map[string]string{
			Latest: yes, "main": yes, "side": yes, "v1": yes, p.old: yes, p.tagged: yes, p.tip: yes, p.side: yes,
			p.stranger: no, strings.Repeat("c", 40): no, "7": nothing, "nosuch": nothing,
		}},
		{
			"any", Tags{AnyTag},
			map[string]string{
				"side": yes, "v1": yes, p.old: yes, p.stranger: yes, strings.Repeat("c", 40): nothing,
				"nosuch": nothing,
			},
		},
		{
			"none", Tags{},
			map[string]string{
				Latest: yes, "main": yes, p.tip: yes, "side": no, "v1": no, p.old: no, p.stranger: no,
				"nosuch": no,
			},
		},
		{
			"branches", Tags{Branches},
			map[string]string{"main": yes, "side": yes, "v1": no, p.side: no, p.stranger: no, "nosuch": nothing},
		},
		{"tags", Tags{GitTags}, map[string]string{"main": yes, "side": no, "v1": yes, p.tagged: no, p.stranger: no}},
		{
			"globs", Tags{"v*", "s?de"},
			map[string]string{"side": yes, "v1": yes, "v2": nothing, "other": no, p.stranger: no},
		},
		{"a glob that commits match", Tags{"[0-9a-f]*"}, map[string]string{p.stranger: no, p.old: no}},
		{"history alone", Tags{Ancestors}, map[string]string{"side": no, p.side: yes, p.old: yes, p.stranger: no}},
	} {
		for _, filter := range []string{"true", "false"} {
			t.Run(test.name+", filter "+filter, func(t *testing.T) {
				p.git("config", "uploadpack.allowFilter", filter)
				dir := t.TempDir()
				g := newGit(
					t,
					GitOptions{
						URL:     "file://" + p.dir,
						Ref:     "main",
						Tags:    test.tags,
						Dir:     dir,
						Refresh: time.Hour,
						Memory:  new(memories),
					},
				)
				if _, err := g.Pin(t.Context(), Latest); err != nil { // a shallow state
					t.Fatal(err)
				}
				for tag, want := range test.want {
					got, err := g.Pin(t.Context(), tag)
					refused := (*NotAllowedError)(nil)
					is := yes
					switch {
					case errors.As(err, &refused):
						is = no
						if !strings.Contains(refused.Error(), "packages.tags") {
							t.Errorf("the refusal of %s does not name the option: %v", tag, refused)
						}
					case errors.Is(err, ErrUnknownTag):
						is = nothing
					case err != nil:
						is = err.Error()
					case commitTag.MatchString(tag) && got.Revision != tag:
						t.Errorf("Pin(%s) is of %s", tag, got.Revision)
					}
					if is != want {
						t.Errorf("Pin(%s) = %s, %v, want %s", tag, is, err, want)
					}
				}
				if has := whole(t, dir, p.stranger); test.want[p.stranger] == no && len(has) > 0 {
					t.Errorf("the commit that may not be chosen is in %v", has)
				}
			})
		}
	}
}

// TestGitTagsOfOtherServers uses servers that don't give out single commits: an old protocol, and
// plain files.
func TestGitTagsOfOtherServers(t *testing.T) {
	p := newProposed(t)
	p.git("config", "uploadpack.allowAnySHA1InWant", "false")
	p.git("update-server-info")
	plain := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(p.dir, ".git"))))
	defer plain.Close()
	config := filepath.Join(t.TempDir(), "config")
	write(t, config, "[protocol]\n\tversion = 0\n")
	t.Setenv("GIT_CONFIG_GLOBAL", config)
	for _, url := range []string{"file://" + p.dir, plain.URL} {
		g := newGit(t, GitOptions{URL: url, Ref: "main", Refresh: time.Hour})
		for _, tag := range []string{Latest, "side", p.old, p.tagged} {
			if _, err := g.Pin(t.Context(), tag); err != nil {
				t.Errorf("%s: Pin(%s) = %v", url, tag, err)
			}
		}
		if _, err := g.Pin(t.Context(), p.stranger); !errors.As(err, new(*NotAllowedError)) {
			t.Errorf("%s: Pin of a stranger's commit is %v", url, err)
		}
	}
}

// TestGitSeen moves a branch away from its commit. Clients may still choose the commit by its tag,
// on all replicas, and no server is asked.
func TestGitSeen(t *testing.T) {
	t.Parallel()
	p := newProposed(t)
	memory, dir := new(memories), t.TempDir()
	options := GitOptions{URL: "file://" + p.dir, Ref: "main", Dir: dir, Refresh: time.Nanosecond, Memory: memory}
	g := newGit(t, options)
	if _, err := g.Pin(t.Context(), Latest); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Pin(t.Context(), p.side); err != nil {
		t.Fatal(err)
	}
	p.git("reset", "--quiet", "--hard", p.old)
	p.git("branch", "--quiet", "-D", "side")
	if latest, err := g.Pin(t.Context(), Latest); err != nil || latest.Revision != p.old {
		t.Fatalf("Pin = %+v, %v", latest, err)
	}
	other := options
	other.Dir = t.TempDir()
	for name, g := range map[string]*Git{"the same": g, "another": newGit(t, other)} {
		if got, err := g.Pin(t.Context(), p.tip); err != nil || got.Revision != p.tip {
			t.Errorf("%s replica: Pin of what was the latest = %+v, %v", name, got, err)
		}
		if _, err := g.Pin(t.Context(), p.side); !errors.As(err, new(*NotAllowedError)) {
			t.Errorf("%s replica: Pin of a commit that was a branch's once is %v", name, err)
		}
	}
	if _, err := g.Pin(t.Context(), p.tagged); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.dir, p.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(p.dir+"-away", p.dir)
	for name, g := range map[string]*Git{"the same": g, "another": newGit(t, options)} {
		if got, err := g.Pin(t.Context(), p.tip); err != nil || got.Stale != nil {
			t.Errorf("%s process, the remote gone: Pin of what was the latest = %+v, %v", name, got, err)
		}
		if got, err := g.Pin(t.Context(), p.tagged); err != nil || got.Stale == nil {
			t.Errorf("%s process, the remote gone: Pin of an old commit = %+v, %v", name, got, err)
		}
		if _, err := g.Pin(t.Context(), p.stranger); err == nil || errors.As(err, new(*NotAllowedError)) ||
			errors.Is(err, ErrUnknownTag) {
			t.Errorf("%s process, the remote gone: Pin of what is not known = %v", name, err)
		}
	}
}

// TestGitHistoryIsLarge makes more history than may be fetched. That is found out once.
func TestGitHistoryIsLarge(t *testing.T) {
	t.Parallel()
	p := newProposed(t)
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	for i := range 3 {
		noise[0] = byte(i)
		copy(noise[i*300_000:], strings.Repeat(string(rune('a'+i)), 1000))
		write(t, filepath.Join(p.dir, "noise"), string(noise))
		p.commit("default.nix", strings.Repeat("x", i+1))
	}
	for _, filters := range []bool{false, true} {
		p.git("config", "uploadpack.allowFilter", map[bool]string{false: "false", true: "true"}[filters])
		g := newGit(t, GitOptions{URL: "file://" + p.dir, Ref: "side", Refresh: time.Hour})
		g.history.bytes = 200 << 10
		_, err := g.Pin(t.Context(), p.old)
		if filters {
			if err != nil {
				t.Errorf("commits alone are little, but Pin = %v", err)
			}
			continue
		}
		refused := (*NotAllowedError)(nil)
		if !errors.As(err, &refused) || !strings.Contains(refused.Error(), "packages.tags") ||
			!strings.Contains(refused.Error(), "200KiB") {
			t.Errorf("Pin = %v", err)
		}
		started := g.runner.Started()
		if _, again := g.Pin(t.Context(), p.tagged); !errors.As(again, &refused) || g.runner.Started() != started {
			t.Errorf("the next one starts %d programs: %v", g.runner.Started()-started, again)
		}
		if left, _ := filepath.Glob(filepath.Join(g.history.dir, "*.git")); len(left) > 0 {
			t.Errorf("%v is left", left)
		}
		if got, err := g.Pin(t.Context(), "side"); err != nil || got.Revision != p.side {
			t.Errorf("Pin of a branch = %+v, %v", got, err)
		}
	}
}

// TestGitHistoryFollows chooses commits that came after the history was fetched, and commits that
// left it.
func TestGitHistoryFollows(t *testing.T) {
	t.Parallel()
	p := newProposed(t)
	p.git("config", "uploadpack.allowFilter", "true")
	g := newGit(t, GitOptions{URL: "file://" + p.dir, Ref: "side", Refresh: time.Hour})
	for i := range historyPacks + 5 {
		commit := p.commit("default.nix", strings.Repeat("y", i+1))
		p.commit("default.nix", "{ }")
		if err := g.history.leads(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	packs, err := filepath.Glob(filepath.Join(g.history.dir, "*", "objects", "pack", "*.pack"))
	if err != nil || len(packs) > historyPacks+1 {
		t.Errorf("%d packs, %v", len(packs), err)
	}
	for _, secret := range []string{"promisor", p.dir} {
		if config := read(t, filepath.Join(g.history.dir, "commits.git", "config")); strings.Contains(config, secret) {
			t.Errorf("the configuration has %q: %s", secret, config)
		}
	}
	gone := p.git("rev-parse", "main~1")
	p.git("reset", "--quiet", "--hard", p.old)
	next := p.commit("default.nix", "next")
	if err := g.history.leads(t.Context(), next); err != nil {
		t.Error(err)
	}
	if err := g.history.leads(t.Context(), gone); !errors.As(err, new(*NotAllowedError)) {
		t.Errorf("a commit that was taken back is %v", err)
	}
}

// TestChannelTags chooses channels and commits. The server has an archive of any commit, also of
// forks.
func TestChannelTags(t *testing.T) {
	t.Parallel()
	m, options := newMirror(t)
	m.set(func() { m.channels["nixos-unstable"], m.channels["release-1"] = commitB, commitB })
	memory := new(memories)
	options.Tags, options.Memory = nil, memory
	isAllowed := func(options ChannelOptions, want map[string]bool) {
		t.Helper()
		options.Dir = t.TempDir()
		c := channel(t, options)
		for _, tag := range []string{Latest, "nixos-26.05", "nixos-unstable", "release-1", commitA, commitB} {
			_, err := c.Pin(t.Context(), tag)
			if refused := (*NotAllowedError)(nil); err != nil &&
				(!errors.As(err, &refused) || !strings.Contains(err.Error(), "packages.tags")) {
				t.Errorf("%v: Pin(%s) = %v", options.Tags, tag, err)
			} else if want[tag] != (err == nil) {
				t.Errorf("%v: Pin(%s) = %v, want %v", options.Tags, tag, err, want[tag])
			}
		}
		for _, tag := range []string{"main", "nonsense"} {
			if _, err := c.Pin(t.Context(), tag); !errors.Is(err, ErrUnknownTag) {
				t.Errorf("%v: Pin(%s) = %v", options.Tags, tag, err)
			}
		}
	}
	isAllowed(options, map[string]bool{Latest: true, "nixos-26.05": true, commitA: true})
	options.Tags = Tags{AnyTag}
	options.Memory = new(memories)
	isAllowed(
		options,
		map[string]bool{
			Latest:           true,
			"nixos-26.05":    true,
			"nixos-unstable": true,
			"release-1":      true,
			commitA:          true,
			commitB:          true,
		},
	)
	options.Tags, options.Memory = Tags{"nixos-*"}, memory
	isAllowed(
		options,
		map[string]bool{Latest: true, "nixos-26.05": true, "nixos-unstable": true, commitA: true, commitB: true},
	)
	// Another channel is configured; what this one was seen at stays.
	options.Tags, options.Name = nil, "release-1"
	isAllowed(options, map[string]bool{Latest: true, "release-1": true, commitA: true, commitB: true})
	options.Tags, options.Name, options.Memory = nil, commitB, nil
	isAllowed(options, map[string]bool{Latest: true, commitB: true})
}

func TestCheckTags(t *testing.T) {
	for _, test := range []struct {
		tags        Tags
		git, faulty bool
	}{
		{nil, true, false},
		{nil, false, false},
		{Tags{Branches, GitTags, Ancestors, "v*"}, true, false},
		{Tags{"nixos-*"}, false, false},
		{Tags{AnyTag}, false, false},
		{Tags{"["}, true, true},
		{Tags{""}, true, true},
		{Tags{Branches}, false, true},
	} {
		if err := test.tags.Check(test.git); (err != nil) != test.faulty {
			t.Errorf("Check(%q, %v) = %v", test.tags, test.git, err)
		}
	}
}
