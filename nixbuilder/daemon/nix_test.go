package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/needs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// The tests in this file speak with the host's Nix about a store of their own. Its builders run in
// Nix's sandbox, which such a store always has: that takes root, or a kernel that lets users make
// namespaces. In the sandbox there is nothing but a static busybox.

// derivations are the things to build; those that take long can be told from those of other tests
// by their number.
const derivations = `
{ seconds ? "1000" }: let
  make = name: script: attrs: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
  } // attrs);
in rec {
  lib = make "lib" "echo from-lib; echo library > $out" { };
  program = make "program" "printf 'one\\033[31m red\\033[0m\\ntwo\\n'; echo ${lib} $out > $out" { };
  split = make "split" "echo $dev > $out; echo dev > $dev" { outputs = [ "out" "dev" ]; };
  failing = make "failing" "echo oh-no; exit 3" { };
  dependent = make "dependent" "echo ${failing} > $out" { };
  slow = make "slow" "echo started; exec /bin/busybox sleep ${seconds}" { };
  # Those take the feature ca-derivations.
  floats = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  floating = make "floating" "echo $dev > $out; echo dev > $dev" (floats // { outputs = [ "out" "dev" ]; });
  resolved = make "resolved" "echo ${floating} > $out" { };
  unresolved = make "unresolved" "echo ${floating.dev}; exit 4" floats;
}
`

// host is a Nix store of a test's own.
type host struct {
	t       testing.TB
	runner  *proc.Runner
	root    string
	seconds string // how long the slow builder of this host sleeps, and of no other
	options Options
}

func newHost(t testing.TB) *host {
	t.Helper()
	needs.Tool(t, "nix-daemon")
	needs.Tool(t, "nix-instantiate")
	busybox := needs.Tool(t, "busybox")
	root := t.TempDir()
	t.Cleanup(func() { // the store is read-only, to anyone but root
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, 0o700)
			}
			return nil
		})
	})
	if err := os.WriteFile(filepath.Join(root, "default.nix"), []byte(derivations), 0o600); err != nil {
		t.Fatal(err)
	}
	runner, _ := proc.New()
	return &host{t, runner, root, fmt.Sprintf("1%09d", rand.N(1_000_000_000)), Options{
		Store: "local?root=" + root,
		Settings: map[string]string{
			"substituters":      "",
			"build-users-group": "",
			"sandbox-paths":     "/bin/sh=" + busybox + " /bin/busybox=" + busybox,
			"max-jobs":          "2",
		},
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root, "NIX_CONF_DIR=" + root},
	}}
}

// run runs one of Nix's programs on the host's store.
func (h *host) run(program string, args ...string) string {
	h.t.Helper()
	settings := []string{"--store", h.options.Store}
	for name, value := range h.options.Settings {
		settings = append(settings, "--option", name, value)
	}
	output, err := h.runner.Run(
		h.t.Context(), proc.Command{Program: program, Args: append(settings, args...), Env: h.options.Env},
	)
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(output.Stdout))
}

// derivation writes one of the derivations to the host's store.
func (h *host) derivation(attribute string) store.Path {
	h.t.Helper()
	return parse(
		h.t,
		h.run(
			"nix-instantiate", filepath.Join(h.root, "default.nix"), "--argstr", "seconds", h.seconds, "-A",
			attribute,
		),
	)
}

func (h *host) targets(attributes ...string) []DerivedPath {
	h.t.Helper()
	var targets []DerivedPath
	for _, a := range attributes {
		targets = append(targets, outputs(h.t, h.derivation(a)))
	}
	return targets
}

func (h *host) output(attribute string) store.Path {
	h.t.Helper()
	return parse(h.t, h.run("nix-store", "-q", "--outputs", string(h.derivation(attribute))))
}

func (h *host) open(settings map[string]string) *Conn {
	h.t.Helper()
	o := h.options
	o.Settings = merged(o.Settings, settings)
	c, err := Open(h.t.Context(), h.runner, o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

func merged(a, b map[string]string) map[string]string {
	m := map[string]string{}
	for _, settings := range []map[string]string{a, b} {
		for k, v := range settings {
			m[k] = v
		}
	}
	return m
}

func parse(t testing.TB, s string) store.Path {
	t.Helper()
	p, err := store.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func outputs(t testing.TB, drv store.Path, names ...string) DerivedPath {
	t.Helper()
	d, err := Outputs(drv, names...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBuild(t *testing.T) {
	h := newHost(t)
	for _, test := range []struct {
		name     string
		build    []string
		settings map[string]string
		want     []Status
		message  string // part of the last result's
		lines    []string
	}{
		{
			name:  "with a dependency",
			build: []string{"program"},
			want:  []Status{Built},
			lines: []string{"lib: from-lib", "program: one red", "program: two"},
		},
		{
			name:  "again",
			build: []string{"program"},
			want:  []Status{AlreadyValid},
		},
		{
			name:    "failing",
			build:   []string{"failing"},
			want:    []Status{PermanentFailure},
			message: "failed with exit code 3",
			lines:   []string{"failing: oh-no"},
		},
		{
			name:    "dependency fails",
			build:   []string{"dependent"},
			want:    []Status{DependencyFailed},
			message: "dependen",
			lines:   []string{"failing: oh-no"},
		},
		{
			name:     "takes too long",
			build:    []string{"slow"},
			settings: map[string]string{"timeout": "1"},
			want:     []Status{TimedOut},
			message:  "timed out after 1 seconds",
			lines:    []string{"slow: started"},
		},
		{
			name:     "silent for too long",
			build:    []string{"slow"},
			settings: map[string]string{"max-silent-time": "1"},
			want:     []Status{TimedOut},
			message:  "timed out after 1 seconds",
			lines:    []string{"slow: started"},
		},
		{
			name:     "some good, some failing",
			build:    []string{"split", "lib", "failing"},
			settings: map[string]string{"keep-going": "true"},
			want:     []Status{Built, AlreadyValid, PermanentFailure},
			message:  "failed with exit code 3",
			lines:    []string{"failing: oh-no"},
		},
		{
			name:  "nothing",
			build: nil,
			want:  nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := h.open(test.settings)
			var lines []string
			results, err := c.Build(t.Context(), h.targets(test.build...), func(l LogLine) {
				if l.Drv != "" {
					lines = append(lines, strings.TrimSuffix(l.Drv.Name(), ".drv")+": "+l.Text)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []Status
			for _, r := range results {
				got = append(got, r.Status)
			}
			if !slices.Equal(got, test.want) || !slices.Equal(lines, test.lines) {
				t.Errorf("Build() = %v, lines %q, want %v, lines %q", results, lines, test.want, test.lines)
			}
			if n := len(results); n > 0 && !strings.Contains(results[n-1].Message, test.message) {
				t.Errorf("message %q, want %q in it", results[n-1].Message, test.message)
			}
			if len(c.Warnings()) > 0 || c.NixVersion() == "" {
				t.Errorf("Warnings() = %q, NixVersion() = %q", c.Warnings(), c.NixVersion())
			}
		})
	}
}

func TestQueries(t *testing.T) {
	h := newHost(t)
	c := h.open(nil)
	ctx := t.Context()
	program, lib := h.output("program"), h.output("lib")
	absent := parse(t, store.Dir+"/"+strings.Repeat("0", 32)+"-absent")

	missing, err := c.QueryMissing(ctx, append(h.targets("program"), Opaque(absent)), nil)
	want := Missing{
		WillBuild: []store.Path{h.derivation("program"), h.derivation("lib")},
		Unknown:   []store.Path{absent},
	}
	slices.Sort(want.WillBuild)
	if err != nil || !reflect.DeepEqual(missing, want) {
		t.Fatalf("QueryMissing() = %v, %v, want %v", missing, err, want)
	}
	if valid, err := c.ValidPaths(ctx, []store.Path{program, lib}); err != nil || len(valid) > 0 {
		t.Errorf("ValidPaths() before the build = %v, %v", valid, err)
	}
	h.mustBuild(c, "program")
	paths := []store.Path{lib, program}
	slices.Sort(paths)
	if valid, err := c.ValidPaths(ctx, []store.Path{program, absent, lib}); err != nil || !slices.Equal(valid, paths) {
		t.Errorf("ValidPaths() = %v, %v, want %v", valid, err, paths)
	}
	missing, err = c.QueryMissing(ctx, h.targets("program"), nil)
	if err != nil || !reflect.DeepEqual(missing, Missing{}) {
		t.Errorf("QueryMissing() after the build = %v, %v, want nothing", missing, err)
	}

	closure, err := c.Closure(ctx, []store.Path{program, program})
	wantClosure := []store.PathInfo{
		{Path: lib, NarSize: 112 + 8}, // the archive of one file, and what it holds
		{Path: program, NarSize: 112 + 104, References: paths},
	}
	slices.SortFunc(
		wantClosure, func(a, b store.PathInfo) int { return strings.Compare(string(a.Path), string(b.Path)) },
	)
	if err != nil || !reflect.DeepEqual(closure, wantClosure) {
		t.Errorf("Closure() = %v, %v, want %v", closure, err, wantClosure)
	}

	registrations, err := c.Registrations(ctx, paths)
	if err != nil || len(registrations) != 2 {
		t.Fatalf("Registrations() = %v, %v", registrations, err)
	}
	for i, r := range registrations {
		if r.Path != paths[i] || !strings.HasPrefix(r.NarHash, "sha256:") && len(r.NarHash) != 64 ||
			time.Since(r.Since) < 0 ||
			time.Since(r.Since) > time.Hour {
			t.Errorf("Registrations() has %+v", r)
		}
	}

	var reported *Error
	if _, err := c.Registrations(ctx, []store.Path{lib, absent}); !errors.As(err, &reported) || c.Err() != nil {
		t.Errorf(
			"Registrations() of an absent path: %v, connection: %v, want an *Error and a good connection",
			err, c.Err(),
		)
	}
	if _, err := c.Closure(ctx, []store.Path{lib, absent}); !errors.As(err, &reported) || c.Err() != nil {
		t.Errorf("Closure() of an absent path: %v, connection: %v, want an *Error and a good connection", err, c.Err())
	}
	if _, err := c.Build(ctx, []DerivedPath{outputs(t, parse(t, string(absent)+".drv"))}, nil); err != nil {
		t.Errorf("Build() of an absent derivation: %v, want a result", err)
	}
	results, err := c.Build(ctx, []DerivedPath{Opaque(absent)}, nil)
	if err != nil || results[0].Status != NoSubstituters {
		t.Errorf("Build() of an absent path: %v, %v, want no substituters", results, err)
	}
}

// A binary cache knows paths that a store does not have. If a cache does not answer, the log says
// so.
func TestInfos(t *testing.T) {
	h := newHost(t)
	h.mustBuild(h.open(nil), "program")
	program, lib := h.output("program"), h.output("lib")
	absent := parse(t, store.Dir+"/"+strings.Repeat("0", 32)+"-absent")
	cache := "file://" + t.TempDir()
	h.run("nix", "--extra-experimental-features", "nix-command", "copy", "--to", cache, string(program))
	paths := []store.Path{lib, program}
	slices.Sort(paths)
	want := []store.PathInfo{{Path: lib, NarSize: 112 + 8}, {Path: program, NarSize: 112 + 104, References: paths}}
	slices.SortFunc(want, func(a, b store.PathInfo) int { return strings.Compare(string(a.Path), string(b.Path)) })
	sorted := func(infos []store.PathInfo) []store.PathInfo {
		slices.SortFunc(infos, func(a, b store.PathInfo) int { return strings.Compare(string(a.Path), string(b.Path)) })
		return infos
	}

	ctx, asked := t.Context(), []store.Path{program, absent, lib}
	if infos, err := h.open(nil).Infos(ctx, asked); err != nil || !reflect.DeepEqual(sorted(infos), want) {
		t.Errorf("Infos() = %v, %v, want %v", infos, err, want)
	}
	if infos, err := h.open(nil).SubstitutableInfos(ctx, asked, nil); err != nil || len(infos) > 0 {
		t.Errorf("SubstitutableInfos() without a cache = %v, %v", infos, err)
	}
	other := newHost(t)
	c := other.open(map[string]string{"substituters": cache, "require-sigs": "false"})
	if infos, err := c.Infos(ctx, asked); err != nil || len(infos) > 0 {
		t.Errorf("Infos() of another store = %v, %v", infos, err)
	}
	if infos, err := c.SubstitutableInfos(ctx, asked, nil); err != nil || !reflect.DeepEqual(infos, want) {
		t.Errorf("SubstitutableInfos() = %v, %v, want %v", infos, err, want)
	}

	down := other.open(
		map[string]string{"substituters": "http://127.0.0.1:1", "connect-timeout": "1", "download-attempts": "1"},
	)
	var lines []LogLine
	infos, err := down.SubstitutableInfos(ctx, asked, func(l LogLine) { lines = append(lines, l) })
	if len(infos) > 0 || !strings.Contains(fmt.Sprint(lines, err), "127.0.0.1:1") || down.Err() != nil {
		t.Errorf(
			"SubstitutableInfos() of a cache that is down = %v, %v; it says %v; connection: %v", infos, err,
			lines, down.Err(),
		)
	}
}

func (h *host) mustBuild(c *Conn, attributes ...string) {
	h.t.Helper()
	results, err := c.Build(h.t.Context(), h.targets(attributes...), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range results {
		if !r.Status.Success() {
			h.t.Fatal(r)
		}
	}
}

// Two targets of one derivation are one build with two results.
func TestBuildOutputsApart(t *testing.T) {
	h := newHost(t)
	c := h.open(nil)
	drv := h.derivation("split")
	targets := []DerivedPath{outputs(t, drv, "out"), outputs(t, drv, "dev"), outputs(t, drv, "out")}
	results, err := c.Build(t.Context(), targets, nil)
	paths := make(map[string]store.Path)
	for path := range strings.FieldsSeq(h.run("nix-store", "-q", "--outputs", string(drv))) {
		p := parse(t, path)
		paths[map[string]string{"split": "out", "split-dev": "dev"}[p.Name()]] = p
	}
	want := []Result{
		{Target: targets[0], Outputs: paths},
		{Target: targets[1], Outputs: paths},
		{Target: targets[2], Outputs: paths},
	}
	if err != nil || !reflect.DeepEqual(results, want) {
		t.Errorf("Build() = %v, %v, want %v", results, err, want)
	}
}

// Without keep-going, a failure ends the builds beside it.
func TestBuildStopsAtFailure(t *testing.T) {
	h := newHost(t)
	results, err := h.open(nil).Build(t.Context(), h.targets("slow", "failing"), nil)
	if err != nil || results[0].Status != MiscFailure || results[0].Message != "" ||
		results[1].Status != PermanentFailure {
		t.Errorf("Build() = %v, %v, want a bare miscellaneous and a permanent failure", results, err)
	}
	if left := h.processes(h.seconds); len(left) > 0 {
		t.Errorf("the builder runs on as %v", left)
	}
}

// One connection sees at once what another builds and the collector deletes.
func TestTempRoots(t *testing.T) {
	h := newHost(t)
	watcher, holder := h.open(nil), h.open(nil)
	ctx := t.Context()
	lib := []store.Path{h.output("lib")}
	seen := func() bool {
		valid, err := watcher.ValidPaths(ctx, lib)
		if err != nil {
			t.Fatal(err)
		}
		_, err = watcher.Closure(ctx, lib)
		if (err == nil) != (len(valid) == 1) {
			t.Fatalf("ValidPaths() = %v, but Closure() fails with %v", valid, err)
		}
		return err == nil
	}
	if seen() {
		t.Fatal("the path is there before it is built")
	}
	if err := holder.AddTempRoots(ctx, lib); err != nil || holder.TempRoots() != 1 {
		t.Fatalf("AddTempRoots() = %v, TempRoots() = %d", err, holder.TempRoots())
	}
	h.mustBuild(holder, "lib")
	h.run("nix-store", "--gc")
	if !seen() {
		t.Error("a path with a temporary root was deleted")
	}
	holder.Close()
	h.run("nix-store", "--gc")
	if seen() {
		t.Error("the temporary root has outlived its connection")
	}
}

func TestCancelBuild(t *testing.T) {
	h := newHost(t)
	c := h.open(nil)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Build(ctx, h.targets("slow"), func(LogLine) {
		if len(h.processes(h.seconds)) == 0 {
			t.Error("the builder is not found while it runs")
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) || c.Err() == nil {
		t.Errorf("Build() = %v, connection: %v, want both canceled", err, c.Err())
	}
	if left := h.processes(h.seconds); len(left) > 0 {
		t.Errorf("the builder runs on as %v", left)
	}
	if _, err := c.ValidPaths(t.Context(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ValidPaths() on a broken connection = %v", err)
	}
}

func TestPoolReplacesKilled(t *testing.T) {
	h := newHost(t)
	pool := NewPool(h.runner, h.options, Limits{})
	defer pool.Close()
	ctx := t.Context()
	kill := func() {
		for _, pid := range h.processes(h.options.Store) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	get := func(started int64) *Conn {
		t.Helper()
		c, err := pool.Get(ctx)
		if err != nil || pool.Started() != started {
			t.Fatalf("Get() = %v, %d processes started, want %d", err, pool.Started(), started)
		}
		return c
	}

	slow := h.targets("slow")
	defer func() { // nobody is left to end the builder of a daemon that was killed
		for _, pid := range h.processes(h.seconds) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	c := get(1)
	_, err := c.Build(ctx, slow, func(LogLine) { kill() })
	var ended *proc.Error
	if !errors.As(err, &ended) || ended.Signal != syscall.SIGKILL || c.Err() == nil {
		t.Errorf("Build() = %v, connection: %v, want both killed", err, c.Err())
	}
	pool.Put(c)
	pool.Put(get(2))
	kill()
	c = get(3)
	h.mustBuild(c, "lib")
	pool.Put(c)
	pool.Put(get(3))
}

// processes lists the running processes that have part in their command line, but not those that
// merely mention it, such as the test itself.
func (h *host) processes(part string) (pids []int) {
	h.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, file := range files {
		commandLine, err := os.ReadFile(file) // fails if the process has just ended
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && pid != os.Getpid() && strings.Contains(string(commandLine), part) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestWarnings(t *testing.T) {
	c := newHost(t).open(map[string]string{"timeout": "soon"})
	if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], "setting 'timeout' has invalid value 'soon'") {
		t.Errorf("Warnings() = %q", w)
	}
}

func TestOpenFails(t *testing.T) {
	h := newHost(t)
	for _, test := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no program", func(o *Options) { o.Program = "/nowhere/nix-daemon" }, "no such file"},
		{"another program", func(o *Options) { o.Program = "false" }, "exit status 1"},
		{"not a number", func(o *Options) { o.Settings = map[string]string{"cores": "all"} }, "cores"},
		{"not a truth value", func(o *Options) { o.Settings = map[string]string{"keep-going": "1"} }, "keep-going"},
		{"a store that is not one", func(o *Options) { o.Store = "bogus://" }, "bogus"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := h.options
			test.change(&o)
			c, err := Open(t.Context(), h.runner, o)
			if err == nil {
				c.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open() = %v, want %q in it", err, test.want)
			}
		})
	}
}

// BenchmarkClosure asks for a closure of 266 paths, each of which refers to up to 8 others.
func BenchmarkClosure(b *testing.B) {
	h := newHost(b)
	expression := `builtins.foldl' (paths: i: [ (builtins.toFile "p${toString i}"
	  (builtins.concatStringsSep " " (builtins.genList (n: builtins.elemAt paths n)
	    (if builtins.length paths < 8 then builtins.length paths else 8)))) ] ++ paths)
	  [ ] (builtins.genList (i: i) 266)`
	first := h.run(
		"nix-instantiate", "--eval", "--strict", "--read-write-mode", "--expr",
		"builtins.head ("+expression+")",
	)
	root := parse(b, strings.Trim(first, `"`))
	c := h.open(nil)
	for b.Loop() {
		closure, err := c.Closure(b.Context(), []store.Path{root})
		if err != nil || len(closure) != 266 {
			b.Fatal(len(closure), err)
		}
	}
}
