package eval

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// walled are the two ways in which what sets fetch comes to them: by a network of their own, where
// the host permits it, and by that of the host.
var walled = map[string][]string{"own network": nil, "host's network": {"ssh://nobody.example/"}}

// innerService is a service of this machine that no list names. It counts its visitors.
func innerService(
	t *testing.T, start func(http.Handler) *httptest.Server,
) (server *httptest.Server, visits *atomic.Int32) {
	t.Helper()
	visits = new(atomic.Int32)
	server = start(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		visits.Add(1)
		fmt.Fprint(w, `{ secret = throw "TOKEN-OF-THE-MACHINE"; }`)
	}))
	t.Cleanup(server.Close)
	return server, visits
}

// A set reaches what the list names, and nothing else of this machine, by any way.
func TestWallsOfFetching(t *testing.T) {
	plain, visits := innerService(t, httptest.NewServer)
	safe, safeVisits := innerService(t, httptest.NewTLSServer)
	public := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/to-http":
			http.Redirect(w, r, plain.URL+"/latest/meta-data/", http.StatusFound)
		case "/to-https":
			http.Redirect(w, r, safe.URL, http.StatusFound)
		default:
			fmt.Fprint(w, inner)
		}
	}))
	t.Cleanup(public.Close)
	trusted := filepath.Join(openDir(t, "certificates"), "ca.crt")
	var certificates []byte
	for _, server := range []*httptest.Server{public, safe} {
		certificates = append(
			certificates,
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})...)
	}
	if err := os.WriteFile(trusted, certificates, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_SSL_CERT_FILE", trusted)
	_, port, _ := strings.Cut(strings.TrimPrefix(safe.URL, "https://"), ":")
	for way, further := range walled {
		for _, test := range []struct {
			name, url string
			refused   string // empty: it is fetched
		}{
			{name: "what is named", url: public.URL + "/set.nix"},
			{name: "redirect to http", url: public.URL + "/to-http", refused: "let it reach " + plain.URL},
			{name: "redirect to https", url: public.URL + "/to-https", refused: "let it reach " + safe.URL},
			{name: "address", url: safe.URL + "/set.nix", refused: "let it reach " + safe.URL},
			{
				name: "other spelling of an address", url: "https://[::ffff:127.0.0.1]:" + port + "/set.nix",
				refused: "let it reach " + safe.URL,
			},
			{
				name: "name", url: "https://localhost:" + port + "/set.nix",
				refused: "let it reach https://localhost:" + port,
			},
		} {
			t.Run(way+"/"+test.name, func(t *testing.T) {
				e, _ := newEvaluator(t, Options{
					ScratchDir:  openDir(t, "scratch"),
					AllowedURIs: append([]string{"https://", public.URL + "/"}, further...),
					FetchTime:   20 * time.Second,
				})
				source := writeSet(
					t,
					"default.nix",
					`{ system, ... }: let set = import (builtins.fetchurl "`+test.url+`"); in
					{ inner = derivation { name = "inner-1"; inherit system;
					builder = builtins.toJSON (builtins.isFunction set || set.secret); }; }`,
				)
				results, err := e.Evaluate(t.Context(), source, system, []string{"inner"})
				if err != nil {
					t.Fatal(err)
				}
				result := results["inner"]
				if test.refused == "" {
					if result.Package == nil {
						t.Errorf("%+v", result.Failure)
					}
					return
				}
				if result.Failure == nil || result.Failure.Kind != Unfetched ||
					!strings.Contains(result.Failure.Message, test.refused) ||
					strings.Contains(result.Failure.Message, "TOKEN") {
					t.Errorf("%+v, %+v, want that the list does not %q", result.Package, result.Failure, test.refused)
				}
			})
		}
	}
	if n := visits.Load() + safeVisits.Load(); n > 0 {
		t.Errorf("services that are not named were asked %d times", n)
	}
}

// Submodules are fetched if the list has them, and only then.
func TestWallsOfSubmodules(t *testing.T) {
	one, directory := remoteRepository(t)
	plain, visits := innerService(t, httptest.NewServer)
	dir := openDir(t, "submodules")
	git := func(args ...string) {
		t.Helper()
		command := exec.Command(
			"git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
		command.Dir = dir
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, output)
		}
	}
	git("init", "--quiet", "--initial-branch=main", "work")
	commit, err := exec.Command("git", "ls-remote", "--", one, "refs/heads/main").Output()
	if err != nil {
		t.Fatal(err)
	}
	branch := func(name, url string) {
		t.Helper()
		for file, text := range map[string]string{
			".gitmodules": "[submodule \"sub\"]\n\tpath = sub\n\turl = " + url + "\n",
			"default.nix": "import ./sub",
		} {
			if err := os.WriteFile(filepath.Join(dir, "work", file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		git("-C", "work", "checkout", "--quiet", "-B", name)
		git("-C", "work", "add", ".gitmodules", "default.nix")
		git("-C", "work", "update-index", "--add", "--cacheinfo", "160000,"+string(commit[:40])+",sub")
		git("-C", "work", "commit", "--quiet", "-m", name)
	}
	branch("main", one)
	branch("away", plain.URL+"/internal-only.git")
	branch("local", "file://"+dir+"/bare.git")
	branch("path", dir+"/bare.git")
	git("clone", "--quiet", "--bare", "work", "bare.git")
	git("-C", "bare.git", "update-server-info")
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	for way, further := range walled {
		for branch, fetched := range map[string]bool{"main": true, "away": false, "local": false, "path": false} {
			t.Run(way+"/"+branch, func(t *testing.T) {
				e, _ := newEvaluator(
					t,
					Options{
						ScratchDir:  openDir(t, "scratch"),
						AllowedURIs: append([]string{"https://", directory, server.URL + "/"}, further...),
						CPU:         20 * time.Second,
					},
				)
				source := fetchingSet(
					t,
					`builtins.fetchGit { url = "`+server.URL+`/bare.git"; ref = "`+branch+`"; submodules = true; }`,
				)
				results, err := e.Evaluate(t.Context(), source, system, []string{"inner"})
				if fetched {
					if err != nil || results["inner"].Package == nil {
						t.Errorf("%+v, %v", results["inner"].Failure, err)
					}
					return
				}
				if fault := (*SourceError)(nil); !errors.As(err, &fault) {
					t.Errorf("%+v, %v, want that the set is not to be had", results["inner"].Package, err)
				}
			})
		}
	}
	if n := visits.Load(); n > 0 {
		t.Errorf("a service that is not named was asked %d times", n)
	}
}
