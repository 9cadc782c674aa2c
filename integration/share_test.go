package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A shareDir is a binary cache in a directory that registries share.
type shareDir struct {
	*binaryCache
	t *testing.T
}

func newShare(t *testing.T) *shareDir {
	t.Helper()
	s := &shareDir{newBinaryCache(t), t}
	if err := os.Chmod(s.secret, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// settings are for registries that share it by a URL.
func (s *shareDir) settings(to string, more ...string) []string {
	return append([]string{"nix.nix.share.to=" + to, "nix.nix.share.secretkeyfile=" + s.secret}, more...)
}

func (s *shareDir) file(more ...string) []string { return s.settings("file://"+s.dir, more...) }

// await waits until nothing waits to be copied by a registry.
func (s *shareDir) await(r *Registry) {
	s.t.Helper()
	Eventually(s.t, commandTime, "all is copied", func() bool { return len(waiting(s.t, r)) == 0 })
}

// waiting are the store paths that wait to be copied by a registry.
func waiting(t *testing.T, r *Registry) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(r.Dir, "cache", "share"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// withEmptyStore gives a registry a Nix store of its own, in which there is nothing yet. Nix does
// not build as the users of the machine's own, whose processes it would end.
func withEmptyStore(t *testing.T, r *Registry) {
	t.Helper()
	Needs(t, "unshare", "mount")
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "true").CombinedOutput(); err != nil {
		needs.Missing(t, "mount namespaces are needed: %v %s", err, out)
	}
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := Dir(t)
	nix := filepath.Join(dir, "nix")
	if err := os.Mkdir(nix, 0o755); err != nil {
		t.Fatal(err)
	}
	script := func(name, text string, args ...any) {
		if err := os.WriteFile(name, fmt.Appendf(nil, "#!/bin/sh\nset -eu\n"+text, args...), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inside := filepath.Join(dir, "inside")
	script(inside, "mount --bind '%s' /nix\nexec '%s' \"$@\"\n", nix, program)
	r.Program = filepath.Join(dir, "registry")
	script(r.Program, "exec unshare --mount --propagation private '%s' \"$@\"\n", inside)
	daemon, err := exec.LookPath("nix-daemon")
	if err != nil {
		t.Fatal(err)
	}
	script(filepath.Join(r.Dir, "bin", "nix-daemon"),
		"echo nix-daemon >>'%s'\nexec '%s' --option build-users-group '' \"$@\"\n", r.programsFile(), daemon)
}

// TestShare has a registry build something that is different each time, and other registries make
// images of it when the first is gone: one with a Nix store in which there is nothing, and one
// without a store.
func TestShare(t *testing.T) {
	t.Parallel()
	bucketURL := func(t *testing.T) string {
		return "s3://" + bucket + "?region=us-east-1&scheme=http&endpoint=" + newS3(t).server.Listener.Addr().String()
	}
	for _, test := range []struct {
		scheme string
		to     func(*testing.T, *shareDir) string
	}{
		{"file", func(_ *testing.T, s *shareDir) string { return "file://" + s.dir }},
		{"http", func(_ *testing.T, s *shareDir) string { return s.url }},
		{"s3", func(t *testing.T, _ *shareDir) string { return bucketURL(t) }},
	} {
		t.Run(test.scheme, func(t *testing.T) {
			t.Parallel()
			s := newShare(t)
			s.writable = true
			settings := s.settings(test.to(t, s), "nix.packages.path="+FreshPackages(t))
			first, second := NewRegistry(t, settings...), NewRegistry(t, settings...)
			storeless := NewRegistry(t, append(settings, "nix.build.storeless=true")...)
			withEmptyStore(t, second)
			withoutStore(t, storeless)
			for _, r := range []*Registry{first, second, storeless} {
				r.Env = []string{"AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=not-to-be-seen"}
			}
			first.Start()
			built := first.Pull(t, "bulky/reader")
			s.await(first)
			first.Kill()
			for name, r := range map[string]*Registry{"with an empty store": second, "storeless": storeless} {
				r.Start()
				if got := r.Pull(t, "bulky/reader"); got.Digest != built.Digest {
					t.Errorf("%s, the image is %s, the first registry built %s", name, got.Digest, built.Digest)
				}
				log := r.Log()
				if strings.Contains(log, logBuilding) {
					t.Errorf("%s, something was built", name)
				}
				if strings.Contains(log, "not-to-be-seen") {
					t.Errorf("%s, the log has a secret", name)
				}
			}
		})
	}
}

// TestShareFaults makes the shared cache fail in several ways. Images are made meanwhile, the log
// says it once, and what was built is copied when the cache is there again.
func TestShareFaults(t *testing.T) {
	t.Parallel()
	disk := func(t *testing.T, s *shareDir, flags uintptr, options string) {
		t.Helper()
		if err := os.MkdirAll(s.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", s.dir, "tmpfs", flags, options); err != nil {
			needs.Missing(t, "mounting a small file system: %v", err)
		}
	}
	hang := func(t *testing.T, s *shareDir) {
		over := make(chan struct{})
		t.Cleanup(func() { close(over) }) // before the server waits for its answers
		s.setFault(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-over:
			case <-r.Context().Done():
			}
		})
	}
	for _, test := range []struct {
		name       string
		file       bool // the cache is a directory
		fail, mend func(*testing.T, *shareDir)
	}{
		{
			"hangs", false, hang,
			func(_ *testing.T, s *shareDir) { s.setFault(nil) },
		},
		{
			"is down", false,
			func(_ *testing.T, s *shareDir) { s.setDown(true) },
			func(_ *testing.T, s *shareDir) { s.setDown(false) },
		},
		{
			"is full", true,
			func(t *testing.T, s *shareDir) { disk(t, s, 0, "size=64k") },
			func(t *testing.T, s *shareDir) { disk(t, s, syscall.MS_REMOUNT, "size=64m") },
		},
		{
			"is read-only", true,
			func(t *testing.T, s *shareDir) { disk(t, s, syscall.MS_RDONLY, "") },
			func(t *testing.T, s *shareDir) { disk(t, s, syscall.MS_REMOUNT, "") },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newShare(t)
			s.writable = true
			to := s.url
			if test.file {
				to = "file://" + s.dir
			}
			test.fail(t, s)
			packages := FreshPackages(t)
			r := StartRegistry(t, s.settings(to, "nix.packages.path="+packages)...)
			r.CheckWhole(t, r.Pull(t, "bulky"))
			r.CheckWhole(t, r.Pull(t, "reader"))
			r.AwaitLog("can't be copied to", 1)
			if len(waiting(t, r)) == 0 {
				t.Error("nothing waits to be copied")
			}
			test.mend(t, s)
			s.await(r)
			for _, name := range []string{"bulky", "reader", "library"} {
				if out := Closure(t, packages, name)[0]; !exists(s.narinfo(out)) {
					t.Errorf("%s was not copied", out)
				}
			}
			log := r.Log()
			for _, text := range []string{"can't be copied to", "copying to", "can't be read: making images without it"} {
				if n := strings.Count(log, text); n > 1 {
					t.Errorf("the log says %d times %q", n, text)
				}
			}
		})
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// TestShareOfOthers has a registry find paths in the cache that a key has signed which is not its
// own: it builds them.
func TestShareOfOthers(t *testing.T) {
	t.Parallel()
	s, others := newShare(t), newShare(t)
	packages := "nix.packages.path=" + FreshPackages(t)
	first := StartRegistry(t, s.file(packages)...)
	built := first.Pull(t, "bulky")
	s.await(first)
	second := NewRegistry(t, others.settings("file://"+s.dir, packages)...)
	withEmptyStore(t, second)
	second.Start()
	if got := second.Pull(t, "bulky"); got.Digest == built.Digest {
		t.Error("what another key has signed was believed")
	}
	if !strings.Contains(second.Log(), "no trusted key has signed it") {
		t.Error("the log does not say that another key has signed it")
	}
}

// TestShareKilled kills a registry when something was built and nothing copied, and in the middle of
// a build of several derivations. What was built by then is copied after the next start.
func TestShareKilled(t *testing.T) {
	t.Parallel()
	s := newShare(t)
	s.writable = true
	s.setDown(true)
	packages := FreshPackages(t)
	r := StartRegistry(t, s.settings(s.url, "nix.packages.path="+packages)...)
	r.Pull(t, "bulky")
	outputs := func(name string) store.Path {
		expression := fmt.Sprintf("(import %s { }).%s.outPath", packages, name)
		return store.Path(strings.Trim(Exec(t, "nix-instantiate", "--eval", "--expr", expression), `"`))
	}
	library := outputs("library")
	go func() {
		_, _, _, _ = r.Get(t.Context(), "/v2/library/sleeps.s60/manifests/latest")
	}()
	Eventually(t, commandTime, "the library is built", func() bool {
		return exec.CommandContext(t.Context(), "nix-store", "--check-validity", string(library)).Run() == nil
	})
	r.Kill()
	s.setDown(false)
	r.Start()
	s.await(r)
	for _, p := range []store.Path{outputs("bulky"), library} {
		if !exists(s.narinfo(p)) {
			t.Errorf("%s was built, and not copied after the next start", p)
		}
	}
	if late := outputs("sleeps.s60"); exists(s.narinfo(late)) {
		t.Errorf("%s is there, so nothing was killed", late)
	}
}

// TestShareWithoutArchives has the cache say that it has something, and not give it: registries
// build it, and leave the cache alone.
func TestShareWithoutArchives(t *testing.T) {
	t.Parallel()
	s := newShare(t)
	s.writable = true
	settings := s.settings(s.url, "nix.packages.path="+FreshPackages(t))
	first := StartRegistry(t, settings...)
	built := first.Pull(t, "bulky/reader")
	s.await(first)
	s.setFault(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		http.FileServer(http.Dir(s.dir)).ServeHTTP(w, r)
	})
	for _, storeless := range []string{"false", "true"} {
		t.Run("storeless "+storeless, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, append(settings, "nix.build.storeless="+storeless)...)
			withEmptyStore(t, r)
			r.Start()
			got := r.Pull(t, "bulky/reader")
			if got.Digest == built.Digest {
				t.Error("what was not there was not built")
			}
			r.CheckWhole(t, r.Pull(t, "writer"))
			r.AwaitLog("can't be read: making images without it", 1)
		})
	}
}

// TestShareOfCommands has the command that builds images wait until what it built is copied, and
// --check find out whether that can be.
func TestShareOfCommands(t *testing.T) {
	t.Parallel()
	s := newShare(t)
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	packages := FreshPackages(t)
	r := NewRegistry(t, s.file("nix.packages.path="+packages)...)
	Exec(t, program, "nix", "build", "--config", r.ConfigFile(), "reader")
	for _, name := range []string{"reader", "library"} {
		if out := Closure(t, packages, name)[0]; !exists(s.narinfo(out)) {
			t.Errorf("%s was not copied", out)
		}
	}
	if said := Exec(t, program, "serve", "--check", r.ConfigFile()); !strings.Contains(said, "signed by "+s.publicKey) {
		t.Errorf("--check does not tell the key: %s", said)
	}
	for _, test := range []struct{ to, want string }{
		{"file:///proc/none", "/proc/none"},
		{"http://127.0.0.1:1", "unable to download 'http://127.0.0.1:1/nix-cache-info'"},
		{"s3://none?scheme=http&endpoint=127.0.0.1:1", "unable to download 's3://none/nix-cache-info'"},
	} {
		r.Configure(s.settings(test.to, "nix.packages.path="+packages)...)
		command := exec.CommandContext(t.Context(), program, "serve", "--check", r.ConfigFile())
		command.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=not-to-be-seen")
		said, err := command.CombinedOutput()
		if want := "nix.share.to: nothing can be copied there: "; err == nil ||
			!strings.Contains(string(said), want) || !strings.Contains(string(said), test.want) {
			t.Errorf("%s is checked with %v: %s\nwant %s%s", test.to, err, said, want, test.want)
		}
		if strings.Contains(string(said), "not-to-be-seen") {
			t.Errorf("--check shows a secret: %s", said)
		}
	}
}
