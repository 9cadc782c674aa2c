package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A page checks what is served at a path.
type page struct {
	path   string
	status int
	text   string
}

func (p page) check(t *testing.T, r *Registry) {
	t.Helper()
	status, header, body, err := r.Get(t.Context(), p.path, "text/html", v1.MediaTypeImageManifest)
	if err != nil || status != p.status || !strings.Contains(string(body), p.text) {
		t.Errorf(
			"%s is answered with %d, %v: %v\n%s\nwant %d with %q", p.path, status, header, err, body,
			p.status, p.text,
		)
	}
}

// TestPage looks at the page that a registry has by itself.
func TestPage(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t)
	page{"/", 200, "docker run --rm -ti " + r.Ref("shell/git/htop")}.check(t, r)
	r.Pull(t, "hello")
	if status := ask(t, r, "no-such-package"); status != 404 {
		t.Errorf("a package that does not exist is answered with %d", status)
	}
	for _, p := range []page{
		{"/", 200, "hello:latest"},
		{"/", 200, "no-such-package:latest"},
		{"/v2/", 200, "{}"},
		{"/v2/_catalog", 200, `"hello"`},
		{"/v2/hello/tags/list", 200, `"latest"`},
		{"/elsewhere", 404, ""},
	} {
		p.check(t, r)
	}
}

// TestEnvironment starts a registry without a configuration, from what was Nixery's environment.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo")
	packages, site := FreshPackages(t), Dir(t)
	Write(t, filepath.Join(site, "index.html"), "<h1>Images of ours</h1>")
	Write(t, filepath.Join(site, ".htaccess"), "secret")
	if err := os.Mkdir(filepath.Join(site, "v2"), 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(site, "v2", "index.html"), "not the API")

	r := StartRegistry(t)
	r.Stop()
	start := func(site string) {
		startWith(t, r, listening, []string{
			"NIXERY_STORAGE_BACKEND=filesystem", "STORAGE_PATH=" + r.storage(), "NIXERY_PKGS_PATH=" + packages,
			// Not on all addresses, and not on a port that another may have.
			"PORT=8080", "REGISTRY_HTTP_ADDR=127.0.0.1:0",
			"NIX_TIMEOUT=300", "WEB_DIR=" + site, "CACHE_DIRECTORY=" + filepath.Join(r.Dir, "cache"),
		}, "serve")
	}
	start(site)
	for _, p := range []page{
		{"/", 200, "Images of ours"},
		{"/index.html", 200, "Images of ours"},
		{"/.htaccess", 404, ""},
		{"/nothing", 404, ""},
		{"/v2/", 200, "{}"},
	} {
		p.check(t, r)
	}
	Exec(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+r.Ref("quick"), destination(t))
	if len(files(t, r.storage())) == 0 {
		t.Error("STORAGE_PATH is empty")
	}
	if status := ask(t, r, "no-such-package"); status != 404 {
		t.Errorf("a package that does not exist is answered with %d", status)
	}
	r.Stop()

	// A directory that is gone serves nothing; images are.
	gone := Dir(t)
	start(gone)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	page{"/", 404, ""}.check(t, r)
	r.CheckWhole(t, r.Pull(t, "quick"))
	r.Stop()

	// What Nixery refused.
	refusal := regexp.MustCompile(`(?s)PORT: .*NIXERY_CHANNEL, NIXERY_PKGS_PATH: exclude`)
	_, stderr, err := TryExec(
		t.Context(), "env", "NIXERY_STORAGE_BACKEND=filesystem", "STORAGE_PATH="+r.storage(),
		"NIXERY_PKGS_PATH="+packages, "NIXERY_CHANNEL=nixos-26.05", "registry", "serve",
	)
	if err == nil || !refusal.MatchString(stderr) {
		t.Errorf("a wrong environment: %v, %s", err, stderr)
	}
}
