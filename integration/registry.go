package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startTime = 30 * time.Second // for a registry to listen
	stopTime  = 30 * time.Second // for one to end after SIGTERM
	lookTime  = 10 * time.Second // for one to look at its package set, which a test may have it wait for
	pollTime  = 10 * time.Millisecond
)

// These are the log's lines when Nix begins to build one derivation for an image, and when an image
// is made.
const (
	logBuilding = "nix: building 1 derivations"
	logBuilt    = "nix: built "
	logPackages = "nix: the package set "
	logReadOnly = "nix: in read-only mode"
)

// A Registry belongs to one test: it has a loopback port, a storage and a cache directory of its
// own. It shares the machine's Nix store with all others. Its methods fail the test instead of
// returning errors.
type Registry struct {
	t testing.TB
	// Dir holds the registry's files: config.yml, storage, cache, log and bin.
	Dir string
	// Addr is its host:port, another one after each start.
	Addr string
	// Program replaces the product's own program from the next Start on.
	Program string
	// Env are variables, NAME=VALUE, which its commands have beside those of all tests, from the
	// next Start on.
	Env []string

	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

// StartRegistry starts a registry, which is stopped when the test ends. Settings are those of
// NewRegistry.
func StartRegistry(t testing.TB, settings ...string) *Registry {
	t.Helper()
	r := NewRegistry(t, settings...)
	r.Start()
	return r
}

// NewRegistry configures a registry without starting it. It is stopped when the test ends. A
// setting is KEY=VALUE as in the package's documentation; VALUE is JSON, or else a text. Packages
// are the demo set's unless nix.packages.path says otherwise.
func NewRegistry(t testing.TB, settings ...string) *Registry {
	t.Helper()
	r := &Registry{t: t, Dir: Dir(t)}
	r.Configure(settings...)
	Write(t, r.logFile(), "")
	r.countPrograms("")
	t.Cleanup(r.check)
	return r
}

// Configure replaces the registry's configuration, from the next Start on. Settings are as for
// NewRegistry.
func (r *Registry) Configure(settings ...string) {
	r.t.Helper()
	config := r.config(DemoPackages(r.t))
	for _, setting := range settings {
		key, value, ok := strings.Cut(setting, "=")
		if !ok {
			r.t.Fatalf("setting %q is not KEY=VALUE", setting)
		}
		if rest, ok := strings.CutPrefix(key, "nix."); ok {
			set(options(config), rest, value)
		} else {
			set(config, key, value)
		}
	}
	content, err := json.MarshalIndent(config, "", "  ") // which is YAML too
	if err != nil {
		r.t.Fatal(err)
	}
	Write(r.t, r.ConfigFile(), string(content))
}

// ConfigFile is the registry's configuration.
func (r *Registry) ConfigFile() string { return filepath.Join(r.Dir, "config.yml") }

// config is a configuration before any setting.
func (r *Registry) config(packages string) map[string]any {
	return map[string]any{
		"version": "0.1",
		"storage": map[string]any{
			"filesystem": map[string]any{"rootdirectory": filepath.Join(r.Dir, "storage")},
			"delete":     map[string]any{"enabled": true},
		},
		"http": map[string]any{"addr": "127.0.0.1:0", "draintimeout": "10s", "secret": "no secret"},
		"middleware": map[string]any{"repository": []any{map[string]any{
			"name": "nix",
			"options": map[string]any{
				"packages": map[string]any{"path": packages},
				"build":    map[string]any{"timeout": "300s", "newperhour": 1_000_000},
				"nix":      map[string]any{"substituters": []string{}},
				"cachedir": filepath.Join(r.Dir, "cache"),
			},
		}}},
	}
}

func options(config map[string]any) map[string]any {
	stanza := config["middleware"].(map[string]any)["repository"].([]any)[0].(map[string]any)
	return stanza["options"].(map[string]any)
}

// set sets the value at a key path. It makes maps on the way.
func set(config map[string]any, path, text string) {
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		value = text
	}
	keys := strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		below, ok := config[key].(map[string]any)
		if !ok {
			below = make(map[string]any)
			config[key] = below
		}
		config = below
	}
	config[keys[len(keys)-1]] = value
}

var listening = regexp.MustCompile(`msg="listening on (127\.0\.0\.1:\d+)"`)

// Start starts the registry and returns when it listens.
func (r *Registry) Start() {
	r.t.Helper()
	program, err := r.Program, error(nil)
	if program == "" {
		program, err = shared.binary()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	log, err := os.OpenFile(r.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	before := len(r.Log())
	r.cmd = exec.Command(program, "serve", r.ConfigFile())
	r.cmd.Dir = r.Dir
	r.cmd.Env = slices.Concat(
		shared.environ(), []string{"PATH=" + filepath.Join(r.Dir, "bin") + ":" + os.Getenv("PATH")}, r.Env,
	)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // should the tests be ended without notice
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	r.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(r.cmd)
	Eventually(r.t, startTime, "the registry listens", func() bool {
		select {
		case <-ended:
			r.t.Fatalf("the registry has ended: %v\n%s", r.cmd.ProcessState, r.Log()[before:])
		default:
		}
		address := listening.FindStringSubmatch(r.Log()[before:])
		if address != nil {
			r.Addr = address[1]
		}
		return address != nil
	})
	r.awaitPackages(before)
}

// awaitPackages waits until the registry has looked at its package set, unless that takes long. The
// registry does so once it listens, and tests count only what they have asked for.
func (r *Registry) awaitPackages(before int) {
	r.t.Helper()
	for deadline := time.Now().Add(lookTime); time.Now().Before(deadline); time.Sleep(pollTime) {
		if log := r.Log()[before:]; strings.Contains(log, logPackages) || strings.Contains(log, logReadOnly) {
			return
		}
	}
}

// Stop ends the registry as an operator does. It does nothing if the registry has ended.
func (r *Registry) Stop() {
	r.t.Helper()
	r.end(syscall.SIGTERM)
}

// Kill ends the registry without notice.
func (r *Registry) Kill() {
	r.t.Helper()
	r.end(syscall.SIGKILL)
}

func (r *Registry) end(signal syscall.Signal) {
	r.t.Helper()
	if r.cmd == nil || r.cmd.Process == nil {
		return
	}
	if err := r.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Error(err)
	}
	select {
	case <-r.ended:
	case <-time.After(stopTime):
		r.t.Errorf("the registry has not ended %v after %v", stopTime, signal)
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
}

// GarbageCollect runs the registry's own command of that name. The registry must not run.
func (r *Registry) GarbageCollect(flags ...string) {
	r.t.Helper()
	Exec(r.t, "env", slices.Concat(r.Env, []string{"registry", "garbage-collect"}, flags, []string{r.ConfigFile()})...)
}

// Ref is the reference of an image in the registry, for clients.
func (r *Registry) Ref(name string) string { return r.Addr + "/" + name }

func (r *Registry) logFile() string { return filepath.Join(r.Dir, "log") }

// Log is all that the registry has written so far, on stdout and stderr, over all its starts.
func (r *Registry) Log() string {
	r.t.Helper()
	log, err := os.ReadFile(r.logFile())
	if err != nil {
		r.t.Fatal(err)
	}
	return string(log)
}

// AwaitLog waits until the log has a text so many times.
func (r *Registry) AwaitLog(text string, times int) {
	r.t.Helper()
	Eventually(r.t, commandTime, fmt.Sprintf("the log has %q %d times", text, times), func() bool {
		return strings.Count(r.Log(), text) >= times
	})
}

// countPrograms puts programs into the registry's PATH that write a line and then run the program
// of Nix of the same name, from a directory or from PATH.
func (r *Registry) countPrograms(nix string) {
	r.t.Helper()
	bin := filepath.Join(r.Dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		r.t.Fatal(err)
	}
	Write(r.t, r.programsFile(), "")
	if err := os.Chmod(r.programsFile(), 0o666); err != nil { // evaluations are another user's
		r.t.Fatal(err)
	}
	for _, name := range []string{"nix-instantiate", "nix-daemon", "nix-store", "nix"} {
		r.count(filepath.Join(nix, name))
	}
}

// useNix makes the registry use the Nix of a Debian suite, with a store of its own, from the next
// Start on.
func (r *Registry) useNix(suite string) {
	r.t.Helper()
	program, err := shared.binary()
	if err != nil {
		r.t.Fatal(err)
	}
	withNix := filepath.Join(shared.root, "scripts", "with-nix.sh")
	Exec(r.t, withNix, suite, "true") // fetches it
	r.countPrograms(filepath.Join(shared.root, "build", "nix-"+suite, "bin"))
	r.Program = filepath.Join(r.Dir, "registry")
	script := fmt.Sprintf(
		"#!/bin/sh\nexec '%s' %s sh -c 'PATH=\"$0:$PATH\" exec \"$@\"' '%s/bin' '%s' \"$@\"\n", withNix,
		suite, r.Dir, program,
	)
	if err := os.WriteFile(r.Program, []byte(script), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

func (r *Registry) count(name string) {
	r.t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		r.t.Fatal(err)
	}
	name = filepath.Base(name)
	script := fmt.Sprintf("#!/bin/sh\necho %s >>'%s'\nexec '%s' \"$@\"\n", name, r.programsFile(), program)
	if err := os.WriteFile(filepath.Join(r.Dir, "bin", name), []byte(script), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

func (r *Registry) programsFile() string { return filepath.Join(r.Dir, "programs") }

// Programs are the names of the programs of Nix that the registry has started so far, in order.
func (r *Registry) Programs() []string {
	r.t.Helper()
	content, err := os.ReadFile(r.programsFile())
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Fields(string(content))
}

// check runs at the end of every test.
func (r *Registry) check() {
	r.Stop()
	log := r.Log()
	for _, crash := range []string{"panic", "goroutine "} {
		if strings.Contains(log, crash) {
			r.t.Errorf("the registry's log has %q", crash)
		}
	}
	if r.t.Failed() {
		r.t.Logf("the registry's log:\n%s", log)
	}
}

// Eventually waits for something that happens soon. The time only limits a test that fails.
func Eventually(t testing.TB, limit time.Duration, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !happened(); time.Sleep(pollTime) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", limit, what)
		}
	}
}
