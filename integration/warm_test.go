package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// nix runs `registry nix` with the registry's configuration, whether or not the registry runs.
func (r *Registry) nix(args ...string) (stdout, stderr string, err error) {
	r.t.Helper()
	if _, err := shared.binary(); err != nil {
		r.t.Fatal(err)
	}
	return TryExec(
		r.t.Context(), "env",
		slices.Concat(r.Env, []string{"registry", "nix", "--config", r.ConfigFile()}, args)...)
}

// TestNixBuild fills the storage of a registry that does not run yet, and then of one that runs.
func TestNixBuild(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	packages := FreshPackages(t)
	r := NewRegistry(t, "nix.packages.path="+packages)
	build := func(images ...string) (lines []string, stderr string) {
		t.Helper()
		stdout, stderr, err := r.nix(append([]string{"build"}, images...)...)
		if err != nil {
			t.Fatalf("building %s: %v\n%s", images, err, stderr)
		}
		lines = strings.Split(stdout, "\n")
		slices.Sort(lines)
		return lines, stderr
	}
	line := func(image string, dgst digest.Digest, how string) string {
		return fmt.Sprintf("%s %s %s", image, dgst, how)
	}

	stdout, stderr, err := r.nix("build", "quick", "no-such-package", "fails", "sleeps.s0:latest")
	if err == nil || strings.Count(stdout, "\n") != 1 {
		t.Errorf("two that can be built and two that can't: %v, %q", err, stdout)
	}
	for _, want := range []string{
		"(?m)^no-such-package: there is no package no-such-package$",
		"(?m)^fails: building fails-1.0 failed .*no such luck", "(?m)^2 of 4 images failed$",
	} {
		if !regexp.MustCompile(want).MatchString(stderr) {
			t.Errorf("stderr lacks %q:\n%s", want, stderr)
		}
	}

	r.Start()
	quick, sleeps := r.Pull(t, "quick"), r.Pull(t, "sleeps.s0")
	r.CheckWhole(t, quick)
	r.CheckWhole(t, sleeps)
	for _, want := range []string{
		line("quick:latest", quick.Digest, "built"), line("sleeps.s0:latest", sleeps.Digest, "built"),
	} {
		if !slices.Contains(strings.Split(stdout, "\n"), want) {
			t.Errorf("stdout lacks %q:\n%s", want, stdout)
		}
	}

	// Beside the registry. What somebody pushed stays; what is there stays until the package set
	// changes.
	Exec(t, "crane", "copy", "--insecure", r.Ref("sleeps.s0"), r.Ref("quick:v1"))
	want := []string{line("quick:latest", quick.Digest, "unchanged"), line("quick:v1", sleeps.Digest, "pushed")}
	if got, _ := build("quick", "quick:v1"); !slices.Equal(got, want) {
		t.Errorf("stdout is %q, want %q", got, want)
	}
	Write(t, filepath.Join(packages, "text"), "changed")
	got, _ := build("quick")
	changed := r.Pull(t, "quick")
	if want := []string{line("quick:latest", changed.Digest, "built")}; !slices.Equal(got, want) ||
		changed.Digest == quick.Digest {
		t.Errorf("stdout is %q, want %q, and not %s as before", got, want, quick.Digest)
	}
	if strings.Contains(r.Log(), logBuilt) {
		t.Error("the registry has built what was there")
	}
}

// The commands say what they can't do before they begin.
func TestNixRefusals(t *testing.T) {
	t.Parallel()
	packages := "nix.packages.path=" + FreshPackages(t)
	for _, test := range []struct {
		name, setting string
		args          []string
		want          string
	}{
		{
			"read-only mode", "storage.maintenance.readonly.enabled=true", []string{"build", "quick"},
			"storage.maintenance.readonly.enabled: ",
		},
		{"a storage that does not last", `storage={"inmemory": {}}`, []string{"layout"}, "storage.inmemory: "},
		{"a faulty configuration", "nix.shell=3", []string{"layout"}, "options.shell: 3 is not a list"},
		{"no stanza", `middleware={}`, []string{"build", "quick"}, "there is no stanza with the name nix"},
		{"a host", "nix.names.prefix=nix", []string{"build", "localhost:5000/nix/quick"}, "begins with a host"},
		{"outside of the prefix", "nix.names.prefix=nix", []string{"build", "quick"}, "is not below nix"},
		{"no name", "nix.names.prefix=nix", []string{"build"}, "requires at least 1 arg"},
		{"no such command", "nix.names.prefix=nix", []string{"frobnicate"}, "unknown command"},
		{"no such package", "nix.names.prefix=nix", []string{"layout", "quicj"}, "there is no package quicj"},
		{
			"a part of a package", "nix.names.prefix=nix", []string{"layout", "quick.builder"},
			"is a part of the package quick",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, packages, test.setting)
			stdout, stderr, err := r.nix(test.args...)
			if err == nil || stdout != "" || !strings.Contains(stderr, test.want) ||
				strings.Contains(stderr, "goroutine") {
				t.Errorf("%v, %q, %s\nwant an error with %q", err, stdout, stderr, test.want)
			}
		})
	}
}

func TestNixBuildInterrupted(t *testing.T) {
	t.Parallel()
	r := NewRegistry(t, "nix.packages.path="+FreshPackages(t))
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	stderr := &watched{text: logBuilding, seen: make(chan struct{})}
	command := exec.CommandContext(t.Context(), program, "nix", "build", "--config", r.ConfigFile(), "sleeps.s120")
	command.Env = append(shared.environ(), r.Env...)
	command.Stdout, command.Stderr = &stdout, stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	<-stderr.seen
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case err = <-ended:
	case <-time.After(stopTime):
		_ = command.Process.Signal(syscall.SIGKILL)
		t.Fatalf("it has not ended: %v", <-ended)
	}
	if command.ProcessState.ExitCode() != 1 || stdout.Len() > 0 ||
		!strings.HasSuffix(stderr.String(), "interrupted\n") {
		t.Errorf("%v, %q, %s", err, stdout.String(), stderr)
	}
}

// A watched collects what a command writes, and closes seen when that has a text.
type watched struct {
	text string
	seen chan struct{}

	mu      sync.Mutex
	content bytes.Buffer
	found   bool
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.content.Write(b)
	if !w.found && strings.Contains(w.content.String(), w.text) {
		w.found = true
		close(w.seen)
	}
	return len(b), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.content.String()
}

// TestPrebuild lets a registry build images by itself, again when the package set has changed, and
// report failures.
func TestPrebuild(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	r := StartRegistry(
		t, "nix.packages.path="+packages, `nix.prebuild=["fails", "quick", "sleeps.s1:latest"]`,
		"nix.refresh=1s",
	)
	r.AwaitLog(logBuilt, 2)
	r.AwaitLog("nix: fails can't be prebuilt, trying again in 1s", 1)
	for _, want := range []string{"quick:latest", "sleeps.s1:latest", "fails:latest"} {
		Eventually(t, commandTime, want+" is on the page", func() bool {
			_, _, body, err := r.Get(t.Context(), "/")
			return err == nil && strings.Contains(string(body), want)
		})
	}
	quick := r.Pull(t, "quick")
	r.CheckWhole(t, quick)
	r.Pull(t, "sleeps.s1")
	if got := strings.Count(r.Log(), logBuilt); got != 2 {
		t.Errorf("%d images were built, want 2", got)
	}

	Write(t, filepath.Join(packages, "text"), "changed")
	r.AwaitLog(logBuilt, 4)
	if changed := r.Pull(t, "quick"); changed.Digest == quick.Digest {
		t.Errorf("the package set has changed, and the image is still %s", quick.Digest)
	}
	if got := strings.Count(r.Log(), logBuilt); got != 4 {
		t.Errorf("%d images were built, want 4", got)
	}
}

// A registry serves clients while it prebuilds, and ends when it is told to.
func TestPrebuildStandsBack(t *testing.T) {
	t.Parallel()
	r := StartRegistry(
		t, "nix.packages.path="+FreshPackages(t), `nix.prebuild=["sleeps.s119"]`, "nix.build.queue=0",
		"nix.build.perclient=1",
	)
	r.AwaitLog(logBuilding, 1)
	r.CheckWhole(t, r.Pull(t, "quick"))
	if got := strings.Count(r.Log(), logBuilt); got != 1 {
		t.Errorf("%d images were built, want that of the client alone", got)
	}
	r.Stop() // fails the test if it does not end
}

// An image that is built without a client causes the same notifications as one for a client.
func TestPrebuildNotifies(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, setting string
		command       bool
	}{
		{name: "in the registry", setting: `nix.prebuild=["quick"]`},
		{name: "by the command", setting: "nix.prebuild=[]", command: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			events := newListener(t)
			r := NewRegistry(
				t,
				"nix.packages.path="+FreshPackages(t),
				test.setting,
				events.setting(t),
			)
			if test.command {
				if _, stderr, err := r.nix("build", "quick"); err != nil {
					t.Fatal(err, stderr)
				}
			}
			r.Start()
			if !test.command {
				r.AwaitLog(logBuilt, 1)
			}
			Eventually(t, commandTime, "an event", func() bool { return events.hasAction("push") })
			image := r.Pull(t, "quick")
			for _, want := range []event{
				{"push", "quick", "latest", image.Digest}, {"push", "quick", "", image.Config.Digest},
			} {
				Eventually(t, commandTime, fmt.Sprint(want), func() bool { return events.has(want) })
			}
		})
	}
}

// layout is the map of heads in a registry's storage, without the times at which it was written.
func (r *Registry) layout() (segments []string) {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.storage(), "nix", "v1", "layout", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		segments = append(segments, string(content))
	}
	return segments
}

// TestLayout asks registries for the same images in different orders. They differ, unless the
// layout was computed before.
func TestLayout(t *testing.T) {
	t.Parallel()
	images := []string{"hello", "git", "curl", "htop", "nano"}
	reversed := slices.Clone(images)
	slices.Reverse(reversed)
	pull := func(r *Registry, names []string) map[string]digest.Digest {
		r.Start()
		digests := make(map[string]digest.Digest)
		for _, name := range names {
			digests[name] = r.Pull(t, name).Digest
		}
		return digests
	}
	differ := func(a, b map[string]digest.Digest) (names []string) {
		for _, name := range images {
			if a[name] != b[name] {
				names = append(names, name)
			}
		}
		return names
	}
	if names := differ(pull(NewRegistry(t), images), pull(NewRegistry(t), reversed)); len(names) == 0 {
		t.Error("without a layout, the order makes no difference: the test shows nothing")
	}

	first, second := NewRegistry(t), NewRegistry(t)
	// With the packages that all images include.
	names := append([]string{"layout", "--build", "cacert", "iana-etc"}, images...)
	for _, r := range []*Registry{first, second} {
		stdout, stderr, err := r.nix(names...)
		if err != nil ||
			!regexp.MustCompile(`^[0-9a-f]{64}: 7 packages with \d+ store paths, [1-9]\d* entries added, 0 known$`).
				MatchString(stdout) {
			t.Fatalf("%v, %q, %s", err, stdout, stderr)
		}
	}
	layout := first.layout()
	if len(layout) != 1 || !slices.Equal(layout, second.layout()) {
		t.Errorf("two empty storages have the layouts\n%q\n%q", layout, second.layout())
	}
	if names := differ(pull(first, images), pull(second, reversed)); len(names) > 0 {
		t.Errorf("%s depend on the order in spite of the layout", names)
	}
	if !slices.Equal(first.layout(), layout) {
		t.Error("pulls have added to a layout of all that they need")
	}
	stdout, stderr, err := first.nix(names...)
	if err != nil || !strings.Contains(stdout, ", 0 entries added, ") || strings.Contains(stdout, ", 0 known") {
		t.Errorf("the same again: %v, %q, %s", err, stdout, stderr)
	}
}

// TestLayoutWhole goes through the whole demo set, with what happens to be in the Nix store.
func TestLayoutWhole(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, `nix.names.deny=["git"]`)
	r.Pull(t, "hello") // which has entries that stay
	before := len(r.layout())
	stdout, stderr, err := r.nix("layout")
	if err != nil {
		t.Fatal(err, stderr)
	}
	var revision string
	var packages, paths, added, known int
	if _, err := fmt.Sscanf(
		stdout, "%s %d packages with %d store paths, %d entries added, %d known", &revision, &packages,
		&paths, &added, &known,
	); err != nil {
		t.Fatalf("%q: %v", stdout, err)
	}
	if packages == 0 || paths == 0 || known == 0 || added+known > paths {
		t.Errorf("stdout is %q", stdout)
	}
	if !regexp.MustCompile(`names are skipped that give no package, and [1-9]\d* packages that are denied`).
		MatchString(stderr) {
		t.Errorf("stderr does not tell of denied packages:\n%s", stderr)
	}
	if after := len(r.layout()); added > 0 && after != before+1 {
		t.Errorf("the map had %d segments, has %d", before, after)
	}
}

// TestLayoutOfBinaryCache lays out packages that only a binary cache knows.
func TestLayoutOfBinaryCache(t *testing.T) {
	t.Parallel()
	packages := FreshPackages(t)
	cache := cacheOf(t, packages, "quick")
	settings := cache.settings("nix.packages.path=" + packages)
	for _, test := range []struct {
		name    string
		args    []string
		want    string
		absent  string
		fetches bool
	}{
		{
			"asked", []string{"layout", "quick", "sleeps.s0"},
			": 1 packages with 2 store paths, 2 entries added, 0 known", "1 packages are skipped", false,
		},
		{
			"built", []string{"layout", "--build", "quick", "sleeps.s0", "fails"},
			": 2 packages with 3 store paths, 3 entries added, 0 known", "fails is left out: ", true,
		},
	} {
		r := NewRegistry(t, settings...)
		stdout, stderr, err := r.nix(test.args...)
		if err != nil || !strings.HasSuffix(stdout, test.want) || !strings.Contains(stderr, test.absent) {
			t.Errorf("%s: %v, %q, %s\nwant %q and %q", test.name, err, stdout, stderr, test.want, test.absent)
		}
		asked := cache.requests(`^/nar/|\.narinfo$`)
		if gave := slices.ContainsFunc(asked, func(path string) bool { return strings.HasPrefix(path, "/nar/") }); len(
			asked,
		) == 0 ||
			gave != test.fetches {
			t.Errorf("%s: the cache was asked for %q", test.name, asked)
		}
	}

	// An answer is better than a guess.
	cache.setDown(true)
	r := NewRegistry(t, settings...)
	if stdout, stderr, err := r.nix("layout", "sleeps.s1"); err == nil || stdout != "" ||
		!strings.Contains(stderr, cache.url) {
		t.Errorf("while the cache is down: %v, %q, %s", err, stdout, stderr)
	}
	if segments := r.layout(); len(segments) > 0 {
		t.Errorf("while the cache is down, it wrote %q", segments)
	}
}
