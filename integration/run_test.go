package integration

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestRun runs what was built on pull.
func TestRun(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t)
	tests := []struct {
		name, image string
		command     []string // empty: the image's own
		want        string   // a regular expression that all of stdout matches
	}{
		{name: "the one package's program", image: "hello", want: `Hello, world!`},
		{name: "root", image: "shell", command: []string{"id"}, want: `uid=0\(root\) gid=0\(root\) groups=0\(root\)`},
		{
			name:    "temporary files",
			image:   "shell",
			command: []string{"bash", "-c", "stat -c %a /tmp /var/tmp && echo x > /tmp/x"},
			want:    `1777\n1777`,
		},
		{
			name:    "where scripts look",
			image:   "shell",
			command: []string{"/bin/sh", "-c", "/usr/bin/env -i /bin/echo found"},
			want:    "found",
		},
		{
			name: "git", image: "shell/git", want: "content",
			command: []string{"bash", "-ec", `
				git init -q /tmp/a && cd /tmp/a && echo content > file && git add file
				git -c user.name=a -c user.email=a@example.org commit -qm message
				git clone -q /tmp/a /tmp/b && cat /tmp/b/file`},
		},
		{
			name: "python", image: "python3", want: `\{"certificates": true, "row": \[1\]\}`,
			command: []string{"python3", "-c", `
import json, sqlite3, ssl
certificates = ssl.create_default_context().cert_store_stats()["x509_ca"]
row = sqlite3.connect(":memory:").execute("select 1").fetchone()
print(json.dumps({"certificates": certificates > 50, "row": row}))`},
		},
		{
			name: "perl and a module", image: "perl/perlpackages.json", want: `\[1\]`,
			command: []string{"perl", "-MJSON", "-e", "print to_json([1])"},
		},
		{
			name: "perl and what a module needs", image: "perl/debian.libipc-run-perl", want: "/dev/pt.*",
			command: []string{"perl", "-MIPC::Run", "-MIO::Pty", "-e", "print IO::Pty->new->ttyname"},
		},
		{
			name: "time zones", image: "debian.tzdata/coreutils/python3", want: `09:00 JST\n.* 02:00:00\+02:00`,
			command: []string{"python3", "-c", `
import datetime, subprocess, zoneinfo
print(subprocess.check_output(["date", "-d", "@1720915200", "+%H:%M %Z"], env={"TZ": "Asia/Tokyo"}, text=True), end="")
print(datetime.datetime.fromtimestamp(1720915200, zoneinfo.ZoneInfo("Europe/Berlin")))`},
		},
		{
			name: "fonts", image: "debian.fontconfig/debian.fonts-dejavu-core", want: "/share/fonts/truetype/dejavu/DejaVuSans.ttf",
			command: []string{"fc-match", "-f", "%{file}", "sans"},
		},
	}
	for _, engine := range Engines {
		t.Run(engine.Name, func(t *testing.T) {
			t.Parallel()
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					ref := r.Ref(test.image)
					engine.Pull(t, ref)
					got := engine.Run(t, append([]string{"--network", "none", ref}, test.command...)...)
					if !regexp.MustCompile(`^(?:` + test.want + `)$`).MatchString(got) {
						t.Errorf("it wrote %q, want %q", got, test.want)
					}
				})
			}
		})
	}
}

func TestNginxServesAPage(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t)
	for _, engine := range Engines {
		t.Run(engine.Name, func(t *testing.T) {
			t.Parallel()
			Needs(t, "nsenter", "curl")
			ref := r.Ref("nginx")
			engine.Pull(t, ref)
			pid := engine.Detach(t, "--network", "none", ref)
			page := Exec(
				t, "nsenter", "--target", pid, "--net", "curl", "--silent", "--show-error", "--fail",
				"--retry", "5", "--retry-connrefused", "http://127.0.0.1/",
			)
			if !regexp.MustCompile(`(?i)<title>.*nginx.*</title>`).MatchString(page) {
				t.Errorf("it served %q", page)
			}
		})
	}
}

// TestCurlFindsCertificates tells a server that nobody knows from there being no certificates to
// know any by.
func TestCurlFindsCertificates(t *testing.T) {
	t.Parallel()
	const unknownIssuer = 60 // curl's exit status; 77 is that it can't read its certificates
	r := StartRegistry(t)
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	for _, engine := range Engines {
		t.Run(engine.Name, func(t *testing.T) {
			t.Parallel()
			ref := r.Ref("curl")
			engine.Pull(t, ref)
			_, stderr, err := TryExec(
				t.Context(), engine.Name, "run", "--rm", "--network", "host", ref, "curl", "--silent",
				"--show-error", server.URL,
			)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != unknownIssuer {
				t.Errorf("curl ended with %v, want status %d\n%s", err, unknownIssuer, stderr)
			}
		})
	}
}

func TestSkopeoCopies(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo")
	r := StartRegistry(t)
	image := r.Pull(t, "shell/git")
	dir := Dir(t)
	for _, target := range []string{"dir:" + filepath.Join(dir, "dir"), "oci:" + filepath.Join(dir, "oci") + ":git"} {
		Exec(t, "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+r.Ref("shell/git"), target)
	}
	for _, manifest := range []string{
		filepath.Join(dir, "dir", "manifest.json"),
		filepath.Join(dir, "oci", "blobs", "sha256", image.Digest.Encoded()),
	} {
		content, err := os.ReadFile(manifest)
		if err != nil || digest.FromBytes(content) != image.Digest {
			t.Errorf("%s has digest %s (%v), want %s", manifest, digest.FromBytes(content), err, image.Digest)
		}
	}
}

func TestCraneValidates(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	r := StartRegistry(t)
	for _, image := range []string{"hello", "shell/git", "files-demo", "image-demo", "python3/redis"} {
		Exec(t, "crane", "validate", "--remote", r.Ref(image))
	}
}
