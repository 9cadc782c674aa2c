package integration

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// What nobody may see.
const (
	gitCanary     = "CANARY-of-git"
	cacheCanary   = "CANARY-of-the-cache"
	noticeCanary  = "CANARY-of-the-listener"
	privateCanary = "CANARY-of-the-set"
)

// TestSecrets uses passwords in the URLs of a package set in git (with a submodule) and of a binary
// cache, and in a header for notifications. They work. They are neither in the log, nor in the
// arguments of programs, nor in answers, nor in what is stored.
func TestSecrets(t *testing.T) {
	t.Parallel()
	packages, texts := newRepository(t), repository{t, Dir(t)}
	texts.git("init", "--quiet", "--initial-branch=main")
	texts.commit("of the submodule")
	set := filepath.Join(packages.dir, "default.nix")
	Write(t, set, strings.ReplaceAll(Read(t, set), "./text", "./texts/text"))
	packages.git("submodule", "--quiet", "add", "--", "../"+filepath.Base(texts.dir), "texts")
	packages.commit("with a submodule")
	remote := startGitHTTP(t, shared.dir, "reader", gitCanary)
	authority := filepath.Join(Dir(t), "ca.pem")
	writeCertificate(t, authority, remote.Certificate())

	cache := cacheOf(t, packages.dir, "quick")
	protect := func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		if user == "nix" && password == cacheCanary {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="cache"`)
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	cache.setFault(func(w http.ResponseWriter, r *http.Request) {
		if protect(w, r) {
			http.FileServer(http.Dir(cache.dir)).ServeHTTP(w, r)
		}
	})
	cache.url = strings.Replace(cache.url, "http://", "http://nix:"+cacheCanary+"@", 1)
	events := newListener(t)
	notifications := "notifications=" + mustJSON(t, map[string]any{"endpoints": []any{map[string]any{
		"name": "test", "url": strings.Replace(events.server.URL, "http://", "http://user:"+noticeCanary+"@", 1),
		"timeout": "5s", "threshold": 3, "backoff": "100ms",
		"headers": map[string]any{"Authorization": []string{"Bearer " + noticeCanary}},
	}}})
	git := fmt.Sprintf(`nix.packages={"git": {"url": "%s/%s", "submodules": true}}`,
		strings.Replace(remote.URL, "https://", "https://reader:"+gitCanary+"@", 1), filepath.Base(packages.dir))

	for _, how := range []string{"with a store", "storeless"} {
		t.Run(how, func(t *testing.T) {
			settings := cache.settings(git, "nix.refresh=1ns", notifications)
			if how == "storeless" {
				settings = cache.storeless(git, "nix.refresh=1ns", notifications)
			}
			r := NewRegistry(t, settings...)
			r.Env = []string{"HOME=" + Dir(t), "GIT_SSL_CAINFO=" + authority}
			programs := []string{"git "}
			if how != "storeless" {
				programs = append(programs, "nix-daemon ")
			}
			arguments := watchArguments(t, programs...)
			r.Start()
			r.CheckWhole(t, r.PullTag(t, "quick", "latest"))
			if !strings.Contains(r.Log(), "downloading 1 store paths") && how != "storeless" {
				t.Error("it was not downloaded")
			}
			header := http.Header{"Accept": {v1.MediaTypeImageManifest}}
			_, answered, body, err := r.Ask(t.Context(), "/v2/quick/manifests/latest", header)
			if err != nil {
				t.Fatal(err)
			}
			shown := map[string]string{"an answer": fmt.Sprint(answered, string(body))}

			r.Configure(
				append(slices.Clone(settings), strings.Replace(git, filepath.Base(packages.dir), "nowhere", 1))...)
			r.Stop()
			r.Start()
			_, answered, body, err = r.Ask(t.Context(), "/v2/quick/manifests/unknown", header)
			if err != nil {
				t.Fatal(err)
			}
			shown["an answer about a fault"] = fmt.Sprint(answered, string(body))
			if !strings.Contains(r.Log(), "running git") || !strings.Contains(r.Log(), "configuring endpoint test") {
				t.Error("the log does not have what would show passwords")
			}
			r.Stop()
			shown["the log"] = r.Log()
			shown["the arguments of programs"] = arguments()
			for _, dir := range []string{"storage", "cache"} {
				for name, content := range contentsBelow(t, filepath.Join(r.Dir, dir)) {
					if filepath.Base(name) == "netrc" {
						continue // which is for Nix alone
					}
					shown[name] = content
				}
			}
			for where, text := range shown {
				if at := strings.Index(text, "CANARY"); at >= 0 {
					t.Errorf("%s has %.40s", where, text[at:])
				}
			}
		})
	}
}

// watchArguments collects the arguments of all programs of this machine until its result is called.
// Those of some programs must be among them.
func watchArguments(t *testing.T, programs ...string) (all func() string) {
	t.Helper()
	seen := make(map[string]bool)
	end := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
			names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, name := range names {
				if text, err := os.ReadFile(name); err == nil {
					seen[string(bytes.ReplaceAll(text, []byte{0}, []byte{' '}))] = true
				}
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(end)
		watching.Wait()
	})
	t.Cleanup(stop)
	return func() string {
		stop()
		var text strings.Builder
		for one := range seen {
			text.WriteString(one + "\n")
		}
		for _, program := range programs {
			if !strings.Contains(text.String(), program) {
				t.Errorf("%s was not seen", program)
			}
		}
		return text.String()
	}
}

// contentsBelow are the contents of the files below a directory, by name.
func contentsBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	contents := make(map[string]string)
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			contents[name] = Read(t, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return contents
}

// TestOtherUsers tries, as another user of the machine, to read what was pushed, and a private
// package set, which evaluations of root's read as yet another user.
func TestOtherUsers(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo")
	packages := FreshPackages(t)
	secret := filepath.Join(packages, "text")
	Write(t, secret, privateCanary)
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	r := StartRegistry(t, "nix.packages.path="+packages)
	image := r.Pull(t, "quick")
	r.CheckWhole(t, image)
	Exec(
		t, "skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+r.Ref("quick"),
		"docker://"+r.Ref("private/app"),
	)
	copied := 0
	for _, dir := range []string{"storage", "cache"} {
		for name, content := range contentsBelow(t, filepath.Join(r.Dir, dir)) {
			if content == privateCanary {
				copied++
			}
			if readableByOthers(t, name) {
				t.Errorf("another user reads %s", name)
			}
		}
	}
	if copied == 0 {
		t.Error("the private file was not copied")
	}
}

// readableByOthers tells whether a file can be read by a user who is neither this one nor one of
// evaluations. Without the right to become such a user, it goes by modes.
func readableByOthers(t *testing.T, name string) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		cat := exec.CommandContext(t.Context(), "cat", "--", name)
		cat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		return cat.Run() == nil
	}
	for at, need := name, fs.FileMode(0o004); at != "/"; at, need = filepath.Dir(at), 0o001 {
		if info, err := os.Stat(at); err != nil || info.Mode()&need == 0 {
			return false
		}
	}
	return true
}
