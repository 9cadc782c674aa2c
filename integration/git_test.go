package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A repository is a package set in git: testdata/fresh, whose program quick prints what the last
// commit says.
type repository struct {
	t   testing.TB
	dir string
}

func newRepository(t testing.TB) repository {
	t.Helper()
	Needs(t, "git")
	r := repository{t, FreshPackages(t)}
	r.git("init", "--quiet", "--initial-branch=main")
	return r
}

func (r repository) git(args ...string) string {
	r.t.Helper()
	command := exec.CommandContext(
		r.t.Context(), "git",
		append([]string{"-C", r.dir, "-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
	command.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z", "GIT_ALLOW_PROTOCOL=file")
	output, err := command.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %q: %v: %s", args, err, output)
	}
	return strings.TrimSpace(string(output))
}

// commit commits all files, with a new text.
func (r repository) commit(text string) (revision string) {
	r.t.Helper()
	Write(r.t, filepath.Join(r.dir, "text"), text)
	r.git("add", ".")
	r.git("commit", "--quiet", "-m", text)
	return r.git("rev-parse", "HEAD")
}

// orphan makes a commit that no branch or tag leads to.
func (r repository) orphan(text string) (revision string) {
	r.t.Helper()
	r.git("checkout", "--quiet", "--detach")
	defer r.git("checkout", "--quiet", "main")
	return r.commit(text)
}

// gitSettings are those of a registry that asks the remote at every pull.
func gitSettings(url string) []string {
	return []string{fmt.Sprintf(`nix.packages={"git": {"url": %q}}`, url), "nix.refresh=1ns"}
}

// checkServed pulls the set's latest image, from a revision that a remote has, and follows the
// branch to another.
func (r repository) checkServed(t *testing.T, registry *Registry, revision string) {
	t.Helper()
	first := registry.PullTag(t, "quick", "latest")
	registry.CheckWhole(t, first)
	moved := r.commit("moved " + registry.Addr)
	second := registry.PullTag(t, "quick", "latest")
	registry.CheckWhole(t, second)
	commit := func(image Image) string { // of a revision, which may name a variant, too
		commit, _, _ := strings.Cut(image.Annotations[v1.AnnotationRevision], "-")
		return commit
	}
	if got, want := commit(first), revision; got != want {
		t.Errorf("latest was built from %s, want %s", got, want)
	}
	if got := commit(second); got != moved || second.Digest == first.Digest {
		t.Errorf("after a commit, latest is %s from %s, want another image from %s", second.Digest, got, moved)
	}
	if old := registry.PullTag(t, "quick", revision); old.Digest != first.Digest {
		t.Errorf("the first revision is %s now, was %s", old.Digest, first.Digest)
	}
}

// checkOrphan asks for a commit that no branch leads to, from a remote that would give it out.
func (r repository) checkOrphan(t *testing.T, registry *Registry) {
	t.Helper()
	orphan := r.orphan("on no branch " + registry.Addr)
	r.git("config", "uploadpack.allowAnySHA1InWant", "true")
	registry.refuses(t, orphan, http.StatusForbidden, "DENIED", orphan, "packages.tags")
}

// refuses checks how a pull of quick fails, without any prompt's time-out, and that clients learn
// nothing of the host.
func (r *Registry) refuses(t *testing.T, tag string, status int, words ...string) {
	t.Helper()
	started := time.Now()
	got, header, body, err := r.Get(t.Context(), "/v2/quick/manifests/"+tag, v1.MediaTypeImageManifest)
	if err != nil {
		t.Fatal(err)
	}
	if got != status || status == http.StatusServiceUnavailable && header.Get("Retry-After") == "" {
		t.Errorf("after %v the answer is %d %v %s, want %d", time.Since(started), got, header, body, status)
	}
	for _, word := range words {
		if !strings.Contains(string(body), word) {
			t.Errorf("the answer is %s, want %q in it", body, word)
		}
	}
	if strings.Contains(string(body), shared.dir) {
		t.Errorf("the answer shows the host: %s", body)
	}
}

// TestGitOverSSH serves a package set from an SSH server, with git's own ways to have keys.
func TestGitOverSSH(t *testing.T) {
	t.Parallel()
	Needs(t, "ssh", "ssh-agent", "ssh-add", "ssh-keygen")
	for _, test := range []struct {
		name string
		env  func(t *testing.T, server sshServer, key string) []string
	}{
		{"a key of GIT_SSH_COMMAND", func(_ *testing.T, server sshServer, key string) []string {
			return []string{"GIT_SSH_COMMAND=" + server.command() + " -oIdentitiesOnly=yes -i " + key}
		}},
		{"an agent's key, and ssh of git's configuration", func(t *testing.T, server sshServer, key string) []string {
			home := Dir(t)
			Write(t, filepath.Join(home, ".gitconfig"), "[core]\n\tsshCommand = "+server.command()+"\n")
			return []string{"HOME=" + home, "SSH_AUTH_SOCK=" + startAgent(t, key)}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			packages := newRepository(t)
			one := packages.commit("one")
			server := startSSH(t)
			key := newSSHKey(t)
			registry := NewRegistry(t, gitSettings(server.url(packages.dir))...)
			registry.Env = test.env(t, server, key)
			registry.Start()

			registry.refuses(t, "latest", http.StatusServiceUnavailable, "UNAVAILABLE")
			if !strings.Contains(registry.Log(), "Permission denied") {
				t.Error("the log does not say that the key was refused")
			}
			server.authorise(t, key)
			packages.checkServed(t, registry, one)
			packages.checkOrphan(t, registry)
		})
	}
}

// An sshServer is an SSH server of the test's own, on loopback.
type sshServer struct{ dir, addr string }

func startSSH(t *testing.T) sshServer {
	t.Helper()
	program, err := exec.LookPath("sshd")
	if err != nil {
		program = "/usr/sbin/sshd" // not in everybody's PATH
	}
	Needs(t, program, "ssh-keygen")
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // which sshd wants to be there
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := sshServer{dir: Dir(t), addr: listener.Addr().String()}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	hostKey := newSSHKey(t)
	host, port, _ := net.SplitHostPort(s.addr)
	Write(t, s.authorised(), "")
	Write(t, s.knownHosts(), fmt.Sprintf("[%s]:%s %s", host, port, Read(t, hostKey+".pub")))
	Write(t, filepath.Join(s.dir, "config"), strings.Join([]string{
		"ListenAddress " + s.addr,
		"HostKey " + hostKey,
		"AuthorizedKeysFile " + s.authorised(),
		"PermitRootLogin prohibit-password",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"StrictModes no",
		"UsePAM no",
		"PidFile none",
	}, "\n")+"\n")
	server := exec.Command(program, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	var log strings.Builder
	server.Stderr = &log
	t.Cleanup(func() { // when it has ended
		if t.Failed() {
			t.Logf("sshd's log:\n%s", &log)
		}
	})
	startServer(t, server)
	Eventually(t, startTime, "sshd listens", func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return s
}

func (s sshServer) authorised() string { return filepath.Join(s.dir, "authorized_keys") }
func (s sshServer) knownHosts() string { return filepath.Join(s.dir, "known_hosts") }

// authorise lets whoever has a key in.
func (s sshServer) authorise(t *testing.T, key string) {
	t.Helper()
	Write(t, s.authorised(), Read(t, key+".pub"))
}

// url is of a repository on this machine.
func (s sshServer) url(dir string) string {
	who, err := user.Current()
	if err != nil {
		panic(err)
	}
	return "ssh://" + who.Username + "@" + s.addr + dir
}

// command is a client that knows the server and nothing of this machine's user.
func (s sshServer) command() string {
	return "ssh -F /dev/null -oUserKnownHostsFile=" + s.knownHosts()
}

// newSSHKey makes a key without a passphrase; the public half is beside it.
func newSSHKey(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(Dir(t), "key")
	Exec(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", file)
	return file
}

// startAgent starts an agent that has a key, and returns its socket.
func startAgent(t *testing.T, key string) (socket string) {
	t.Helper()
	socket = filepath.Join(Dir(t), "agent")
	startServer(t, exec.Command("ssh-agent", "-D", "-a", socket))
	Eventually(t, startTime, "the agent listens", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	Exec(t, "env", "SSH_AUTH_SOCK="+socket, "ssh-add", "-q", key)
	return socket
}

// TestGitOverHTTPS serves a package set from a server that wants a password, with git's own ways to
// have one.
func TestGitOverHTTPS(t *testing.T) {
	t.Parallel()
	const name, password = "reader", "s3cret word"
	for _, test := range []struct {
		method string
		setUp  func(t *testing.T, home, addr string)
	}{
		{"netrc", func(t *testing.T, home, addr string) {
			host, _, _ := net.SplitHostPort(addr)
			Write(
				t, filepath.Join(home, ".netrc"),
				fmt.Sprintf("machine %s login %s password %q\n", host, name, password),
			)
		}},
		{"a credential helper", func(t *testing.T, home, _ string) {
			Write(
				t, filepath.Join(home, ".gitconfig"),
				fmt.Sprintf(
					"[credential]\n\thelper = \"!f() { echo username=%s; echo 'password=%s'; }; f\"\n", name,
					password,
				),
			)
		}},
		{"stored credentials", func(t *testing.T, home, addr string) {
			Write(t, filepath.Join(home, ".gitconfig"), "[credential]\n\thelper = store\n")
			Write(
				t, filepath.Join(home, ".git-credentials"),
				fmt.Sprintf("https://%s:%s@%s\n", name, strings.ReplaceAll(password, " ", "%20"), addr),
			)
		}},
	} {
		t.Run(test.method, func(t *testing.T) {
			t.Parallel()
			packages := newRepository(t)
			one := packages.commit("one")
			server := startGitHTTP(t, packages.dir, name, password)
			home := Dir(t)
			authority := filepath.Join(home, "ca.pem")
			writeCertificate(t, authority, server.Certificate())
			registry := NewRegistry(t, gitSettings(server.URL+"/.git")...)
			registry.Env = []string{"HOME=" + home, "GIT_SSL_CAINFO=" + authority}
			registry.Start()

			registry.refuses(t, "latest", http.StatusServiceUnavailable, "UNAVAILABLE")
			if !strings.Contains(registry.Log(), "could not read Username") {
				t.Error("the log does not say that a password is missing")
			}
			if asked := server.refused.Load(); asked == 0 {
				t.Error("the server was not asked")
			}
			test.setUp(t, home, server.Listener.Addr().String())
			packages.checkServed(t, registry, one)
			packages.checkOrphan(t, registry)
			if strings.Contains(registry.Log(), password) {
				t.Error("the log has the password")
			}
		})
	}
}

// TestGitUntrustedServer does not believe a server whose certificate nobody it trusts has issued.
func TestGitUntrustedServer(t *testing.T) {
	t.Parallel()
	packages := newRepository(t)
	one := packages.commit("one")
	server := startGitHTTP(t, packages.dir, "", "")
	registry := NewRegistry(t, gitSettings(server.URL+"/.git")...)
	authority := filepath.Join(Dir(t), "ca.pem")
	writeCertificate(t, authority, newAuthority(t).certificate)
	registry.Env = []string{"HOME=" + filepath.Dir(authority), "GIT_SSL_CAINFO=" + authority}
	registry.Start()
	registry.refuses(t, "latest", http.StatusServiceUnavailable, "UNAVAILABLE")
	if server.asked.Load() > 0 {
		t.Error("the server was asked for something")
	}
	writeCertificate(t, authority, server.Certificate())
	packages.checkServed(t, registry, one)
}

// A gitServer is git's own HTTP server behind TLS and, unless name is empty, a password. It speaks
// the protocol's first version, in which the server's configuration decides which commits are given
// out.
type gitServer struct {
	*httptest.Server
	asked, refused atomic.Int32
}

func startGitHTTP(t *testing.T, dir, name, password string) *gitServer {
	t.Helper()
	backend := &cgi.Handler{
		Path: filepath.Join(Exec(t, "git", "--exec-path"), "git-http-backend"),
		Env: []string{
			"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
	}
	s := new(gitServer)
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		s.asked.Add(1)
		if givenName, given, _ := request.BasicAuth(); givenName != name || given != password {
			s.refused.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="packages"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		request.Header.Del("Git-Protocol")
		backend.ServeHTTP(w, request)
	}))
	t.Cleanup(s.Close)
	return s
}

// TestGitSubmodules serves a set whose packages need a submodule, which is beside it by a relative
// URL.
func TestGitSubmodules(t *testing.T) {
	t.Parallel()
	packages, texts := newRepository(t), repository{t, Dir(t)}
	texts.git("init", "--quiet", "--initial-branch=main")
	texts.commit("of the submodule")
	Write(
		t, filepath.Join(packages.dir, "default.nix"),
		strings.ReplaceAll(Read(t, filepath.Join(packages.dir, "default.nix")), "./text", "./texts/text"),
	)
	packages.git("submodule", "--quiet", "add", "--", "../"+filepath.Base(texts.dir), "texts")
	packages.commit("with a submodule")
	registry := StartRegistry(t, gitSettings("file://"+packages.dir)...)
	registry.refuses(t, "latest", http.StatusForbidden, "DENIED", "texts is a git submodule", "packages.git.submodules")

	registry.Stop()
	settings := fmt.Sprintf(`nix.packages={"git": {"url": "file://%s", "submodules": true}}`, packages.dir)
	with := NewRegistry(
		t, settings, "nix.refresh=1ns", "storage.filesystem.rootdirectory="+registry.storage(),
		"nix.cachedir="+filepath.Join(registry.Dir, "cache"),
	)
	with.Start()
	first := with.PullTag(t, "quick", "latest")
	with.CheckWhole(t, first)
	Exec(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+with.Ref("quick"))

	texts.commit("of the submodule, later")
	if again := with.PullTag(t, "quick", "latest"); again.Digest != first.Digest {
		t.Error("a commit of the submodule alone is seen")
	}
	packages.git("-C", "texts", "pull", "--quiet")
	moved := packages.commit("with another commit of the submodule")
	if again := with.PullTag(t, "quick", "latest"); again.Digest == first.Digest ||
		!strings.HasPrefix(again.Annotations[v1.AnnotationRevision], moved+"-") {
		t.Errorf("with another commit of the submodule, latest is %s from %v", again.Digest, again.Annotations)
	}
}

// TestGitLFS serves a set whose large files are in git LFS, on a machine where that is set up for
// all users. Packages that don't need them are as any other; those that do are told why they fail.
func TestGitLFS(t *testing.T) {
	t.Parallel()
	packages := newRepository(t)
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("0", 64) + "\nsize 5\n"
	for name, content := range map[string]string{
		"set.nix": Read(t, filepath.Join(packages.dir, "default.nix")),
		"default.nix": `args: let fresh = import ./set.nix args; in fresh // {
			evaluates = import ./evaluated.nix;
			builds = derivation {
				name = "builds";
				inherit (fresh.quick) system builder;
				args = [ "sh" "-euc" "$b grep -q content ${./built.bin} || { echo ${./built.bin} is no archive; exit 1; }" ];
				b = fresh.quick.builder;
			};
		}`,
		".git/info/attributes": "* -filter\n", // whoever committed had LFS
		".gitattributes":       "evaluated.nix filter=lfs\n*.bin filter=lfs\n",
		"evaluated.nix":        pointer,
		"built.bin":            pointer,
	} {
		Write(t, filepath.Join(packages.dir, name), content)
	}
	one := packages.commit("one")
	config := filepath.Join(Dir(t), "config")
	Write(
		t, config,
		"[filter \"lfs\"]\n\tprocess = /nonexistent/git-lfs filter-process\n\tsmudge = /nonexistent/git-lfs smudge\n\trequired = true\n",
	)
	registry := NewRegistry(t, gitSettings("file://"+packages.dir)...)
	registry.Env = []string{"GIT_CONFIG_SYSTEM=" + config}
	registry.Start()
	if image := registry.PullTag(t, "quick", "latest"); image.Annotations[v1.AnnotationRevision] != one {
		t.Errorf("the image is of %v", image.Annotations)
	}
	for name, file := range map[string]string{"evaluates": "evaluated.nix", "builds": "built.bin"} {
		status, _, body, err := registry.Get(t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusForbidden ||
			!strings.Contains(string(body), file+" is in git LFS, which is not fetched") {
			t.Errorf("%s is answered with %d %s, %v", name, status, body, err)
		}
	}
	if log := registry.Log(); !strings.Contains(log, "2 files of file://"+packages.dir+" at "+one+" are in git LFS") {
		t.Error("the log does not say that files are in git LFS")
	}
}

// TestFlake serves packages of a flake in git, whose packages come from an input that is beside it
// and one that is fetched.
func TestFlake(t *testing.T) {
	t.Parallel()
	packages := newRepository(t)
	inner := FreshPackages(t)
	var down atomic.Bool
	archive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if down.Load() {
			http.NotFound(w, request)
		} else if err := writeArchive(w, inner, "inner"); err != nil {
			t.Error(err)
		}
	}))
	defer archive.Close()
	for from, to := range map[string]string{"default.nix": "own/set.nix", "salt": "own/salt"} {
		if err := os.MkdirAll(filepath.Join(packages.dir, "own"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(packages.dir, from), filepath.Join(packages.dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	set := filepath.Join(packages.dir, "own", "set.nix")
	Write(t, set, strings.NewReplacer("./bin", "../bin", "./text", "../text").Replace(Read(t, set)))
	Write(t, filepath.Join(packages.dir, "flake.nix"), fmt.Sprintf(`{
  inputs.inner = { url = "%s/inner.tar.gz"; flake = false; };
  outputs = { self, inner }: {
    legacyPackages.x86_64-linux = import ./own/set.nix { system = "x86_64-linux"; };
    packages.x86_64-linux = { quick = throw "the other one is meant"; other = import inner { system = "x86_64-linux"; }; };
  };
}
`, archive.URL))
	packages.commit("without a lock file")
	settings := append(gitSettings("file://"+packages.dir), fmt.Sprintf(`nix.nix.alloweduris=[%q]`, archive.URL))
	registry := StartRegistry(t, settings...)
	registry.refuses(t, "latest", http.StatusForbidden, "DENIED", "flake.lock does not lock", "inner", "nix flake lock")

	Exec(
		t, "env", "HOME="+Dir(t), "nix", "--extra-experimental-features", "nix-command flakes", "flake",
		"lock", "path:"+packages.dir,
	)
	one := packages.commit("with a lock file")
	packages.checkServed(t, registry, one)
	registry.CheckWhole(t, registry.Pull(t, "other.quick"))

	// In turn: an input that can't be fetched now, one that can, and one that is another than the
	// lock file says.
	other := func(registry *Registry) (status int, header http.Header, body string) {
		t.Helper()
		status, header, content, err := registry.Get(
			t.Context(), "/v2/other.quick/manifests/latest", v1.MediaTypeImageManifest,
		)
		if err != nil {
			t.Fatal(err)
		}
		return status, header, string(content)
	}
	down.Store(true)
	late := StartRegistry(t, settings...)
	late.CheckWhole(t, late.Pull(t, "quick")) // which needs no input
	status, header, body := other(late)
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" ||
		!strings.Contains(body, "unable to download") {
		t.Errorf("with an input that can't be fetched, the answer is %d %v %s", status, header, body)
	}
	down.Store(false)
	late.CheckWhole(t, late.Pull(t, "other.quick"))

	Write(t, filepath.Join(inner, "text"), "another")
	if status, _, body := other(StartRegistry(t, settings...)); status != http.StatusForbidden ||
		!strings.Contains(body, "hash mismatch") {
		t.Errorf("with another archive than the lock file says, the answer is %d %s", status, body)
	}
}
