package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// TestFetchedSet edits a package set that fetches another one, as sets do that pin their nixpkgs.
// The other set is fetched once, and the next pull sees every edit.
func TestFetchedSet(t *testing.T) {
	t.Parallel()
	fetched := FreshPackages(t)
	var fetches atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		if err := writeArchive(w, fetched, "set"); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()

	packages := Dir(t)
	edit := func(text string) {
		Write(
			t,
			filepath.Join(packages, "default.nix"),
			fmt.Sprintf(`{ system, ... }: let inner = import (fetchTarball "%s/set.tar.gz") { inherit system; }; in
			inner // { quick = derivation (inner.quick.drvAttrs // { edit = "%s"; }); }`, server.URL, text),
		)
	}
	edit("zero")
	r := StartRegistry(t, "nix.packages.path="+packages, fmt.Sprintf("nix.nix.alloweduris=[%q]", server.URL))
	last := r.Pull(t, "quick")
	for _, text := range []string{"one", "two"} {
		edit(text)
		edited := r.Pull(t, "quick")
		if edited.Digest == last.Digest {
			t.Errorf("after the edit %q the old image is served", text)
		}
		last = edited
		r.Pull(t, "sleeps.s0")
	}
	r.Stop()
	edit("three")
	r.Start()
	if r.Pull(t, "quick").Digest == last.Digest {
		t.Error("after a restart the old image is served")
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("for three edits and a restart, the archive was fetched %d times, want once", n)
	}
	r.CheckWhole(t, last)
}
