package source

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func checkOffers(t *testing.T, from Source, want ...string) {
	t.Helper()
	if got := from.Offers(t.Context()); !slices.Equal(got, want) {
		t.Errorf("%T offers %q, want %q", from, got, want)
	}
}

func TestOffersOfGit(t *testing.T) {
	r := newRemote(t)
	head := r.git("rev-parse", "HEAD")
	for _, branch := range []string{
		"side", "feature/x", "release-1", "latest", head, strings.Repeat("b", 140), "a+b",
		"sha256-" + strings.Repeat("a", 64),
	} {
		r.git("branch", branch)
	}
	r.git("tag", "v1")
	r.git("tag", "side") // also a branch
	r.git("tag", "-a", "v2", "-m", "annotated")
	for _, test := range []struct {
		name string
		ref  string
		tags Tags
		want []string
	}{
		{"all that there is", "main", nil, []string{"main", "release-1", "side", "v1", "v2"}},
		{"the default branch", "", nil, []string{"main", "release-1", "side", "v1", "v2"}},
		{"branches", "main", Tags{Branches}, []string{"main", "release-1", "side"}},
		{"tags", "main", Tags{GitTags}, []string{"main", "side", "v1", "v2"}},
		{"globs", "main", Tags{"release-*", "v1"}, []string{"main", "release-1", "v1"}},
		{"any", "main", Tags{AnyTag}, []string{"main", "release-1", "side", "v1", "v2"}},
		{"the operator's alone", "main", Tags{}, []string{"main"}},
		{"the operator's, which is none", "feature/x", Tags{}, nil},
		{"a commit's", head, Tags{"v1"}, []string{"v1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGit(t, GitOptions{URL: r.dir, Ref: test.ref, Tags: test.tags, Refresh: time.Hour})
			checkOffers(t, NewVariants(g, nil, nil, nil), test.want...)
		})
	}
	// Until Refresh is over, or when the remote is gone, they stay.
	refreshed := newGit(t, GitOptions{URL: r.dir, Ref: "main", Refresh: time.Hour})
	always := newGit(t, GitOptions{URL: r.dir, Ref: "main", Refresh: time.Nanosecond})
	checkOffers(t, refreshed, "main", "release-1", "side", "v1", "v2")
	r.git("branch", "new")
	checkOffers(t, refreshed, "main", "release-1", "side", "v1", "v2")
	checkOffers(t, always, "main", "new", "release-1", "side", "v1", "v2")
	if err := os.Rename(filepath.Join(r.dir, ".git"), filepath.Join(r.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	checkOffers(t, always, "main", "new", "release-1", "side", "v1", "v2")
}

// A remote that says nothing keeps nobody waiting for long, nor twice.
func TestOffersOfASilentRemote(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	g := newGit(t, GitOptions{URL: server.URL, Ref: "main", Refresh: time.Hour})
	g.advertised.patience = 100 * time.Millisecond
	for name := range map[string]bool{"side": true, tagsPrefix + "v1": true, headsPrefix + "b": true} {
		if err := g.lookups.keep(name, lookup{commitA, time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		checkOffers(t, g, "b", "main", "side", "v1")
	}
	if got := requests.Load(); got != 1 {
		t.Errorf("it was asked %d times, want once", got)
	}
	// What was looked up earlier may be chosen no more.
	g.options.Tags = Tags{Branches}
	checkOffers(t, g, "b", "main", "side")
}

func TestOffersOfAChannel(t *testing.T) {
	m, options := newMirror(t)
	m.channels["nixos-25.11"], m.channels["nixpkgs-unstable"] = commitB, commitB
	options.Tags = Tags{"nixos-*", "nixpkgs-unstable"}
	c := channel(t, options)
	checkOffers(t, c, "nixos-26.05")
	for _, tag := range []string{"nixpkgs-unstable", "nixos-25.11", "nixos-0", commitB} {
		_, _ = c.Pin(t.Context(), tag)
	}
	checkOffers(t, c, "nixos-25.11", "nixos-26.05", "nixpkgs-unstable")
	c.options.Tags = nil
	checkOffers(t, c, "nixos-26.05")
	options.Name, options.Dir = commitA, t.TempDir()
	checkOffers(t, channel(t, options))
}

// Of too many, the operator's own is there.
func TestOffersHaveABound(t *testing.T) {
	var names []string
	for a := range 40 {
		for b := range 40 {
			names = append(names, "v"+strings.Repeat("a", a)+strings.Repeat("b", b))
		}
	}
	got := offers("zz", names)
	if len(got) != maxOffers || got[len(got)-1] != "zz" || !slices.IsSorted(got) {
		t.Errorf("%d are offered, the last is %q", len(got), got[len(got)-1])
	}
	if got := offers("", names); len(got) != maxOffers {
		t.Errorf("%d are offered", len(got))
	}
}
