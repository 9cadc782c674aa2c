package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const startTime, stopTime = 30 * time.Second, 40 * time.Second

// A registry is the one that is looked at.
type registry struct {
	dir, set, log string
	addr, debug   string // host:port
	cmd           *exec.Cmd
}

// start starts a registry that serves a copy of the demo set, with nothing stored.
func start(ctx context.Context, dir string) (*registry, error) {
	r := &registry{dir: dir, set: filepath.Join(dir, "set"), log: filepath.Join(dir, "log")}
	for _, step := range [][]string{
		{"rm", "-rf", dir}, {"mkdir", "-p", dir}, {"cp", "-rl", "build/demo", r.set},
		// What is edited must not be a link.
		{"sh", "-c", `for f in "$0"/*.nix; do cp "$f" "$f.new" && mv "$f.new" "$f"; done`, r.set},
	} {
		if out, err := exec.CommandContext(ctx, step[0], step[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%q: %w %s", step, err, out)
		}
	}
	var err error
	if r.debug, err = freeAddr(); err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{ // which is YAML, too
		"version": "0.1",
		"storage": map[string]any{
			"filesystem": map[string]any{"rootdirectory": filepath.Join(dir, "storage")},
			"delete":     map[string]any{"enabled": true},
		},
		"http": map[string]any{
			"addr": "127.0.0.1:0", "secret": "no secret", "draintimeout": "10s",
			"debug": map[string]any{"addr": r.debug},
		},
		"middleware": map[string]any{"repository": []any{map[string]any{"name": "nix", "options": map[string]any{
			"packages": map[string]any{"path": r.set},
			"nix":      map[string]any{"substituters": []string{}},
			"cachedir": filepath.Join(dir, "cache"),
		}}}},
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	r.cmd = exec.Command("build/registry", "serve", file)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	listening := regexp.MustCompile(`msg="listening on (127\.0\.0\.1:\d+)"`)
	for until := time.Now().Add(startTime); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(r.log)
		if err != nil {
			return nil, err
		}
		if found := listening.FindSubmatch(text); found != nil {
			r.addr = string(found[1])
			return r, nil
		}
	}
	r.stop()
	return nil, fmt.Errorf("the registry does not listen, see %s", r.log)
}

// freeAddr is one that nobody listens on. The debug server says nowhere which it has.
func freeAddr() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

func (r *registry) stop() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(stopTime, func() { _ = r.cmd.Process.Kill() })
	defer kill.Stop()
	_ = r.cmd.Wait() // how it ends does not matter
}

// A usage is what the registry takes at a moment. Sizes are in bytes.
type usage struct {
	resident, peak                    int64
	goroutines, files, threads        int
	children, stored                  int // processes; files in the storage
	storedBytes, cachedBytes, logSize int64
}

const usageHeader = "   RSS   HWM goroutines files threads children  stored  bytes  cachedir    log"

func (u usage) String() string {
	const mega = 1e6
	return fmt.Sprintf("%5.0fM %4.0fM %10d %5d %7d %8d %7d %5.0fM %8.0fM %5.0fM",
		float64(u.resident)/mega, float64(u.peak)/mega, u.goroutines, u.files, u.threads, u.children, u.stored,
		float64(u.storedBytes)/mega, float64(u.cachedBytes)/mega, float64(u.logSize)/mega)
}

// within tells whether no more goroutines run and no more files are open than before.
func (u usage) within(before usage) bool {
	return u.goroutines <= before.goroutines+tolerance && u.files <= before.files+tolerance
}

// usage looks at the registry. What can't be read is 0: it has ended, which clients find out.
func (r *registry) usage(ctx context.Context) (u usage) {
	proc := fmt.Sprint("/proc/", r.cmd.Process.Pid)
	status, _ := os.ReadFile(proc + "/status")
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			u.resident = n << 10
		case "VmHWM:":
			u.peak = n << 10
		case "Threads:":
			u.threads = int(n)
		}
	}
	files, _ := os.ReadDir(proc + "/fd")
	u.files = len(files)
	children, _ := filepath.Glob(proc + "/task/*/children")
	for _, file := range children {
		pids, _ := os.ReadFile(file)
		u.children += len(strings.Fields(string(pids)))
	}
	if request, err := http.NewRequestWithContext(
		ctx, http.MethodGet, "http://"+r.debug+"/debug/pprof/goroutine?debug=1", nil,
	); err == nil {
		if response, err := http.DefaultClient.Do(request); err == nil {
			head, _ := io.ReadAll(io.LimitReader(response.Body, 100))
			_, _ = fmt.Sscanf(string(head), "goroutine profile: total %d", &u.goroutines)
			response.Body.Close()
		}
	}
	u.stored, u.storedBytes = below(filepath.Join(r.dir, "storage"))
	_, u.cachedBytes = below(filepath.Join(r.dir, "cache"))
	if info, err := os.Stat(r.log); err == nil {
		u.logSize = info.Size()
	}
	return u
}

// below counts the files in a directory, and their bytes. What goes meanwhile does not count.
func below(dir string) (files int, bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // it is gone
		}
		if info, err := entry.Info(); err == nil {
			files++
			bytes += info.Size()
		}
		return nil
	})
	return files, bytes
}
