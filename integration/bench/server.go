package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	startTime = 30 * time.Second // for a registry to listen
	stopTime  = 20 * time.Second // for one to end after SIGTERM
)

// The forms of a manifest that clients of today ask for.
const accept = v1.MediaTypeImageManifest + ", " + v1.MediaTypeImageIndex +
	", application/vnd.docker.distribution.manifest.v2+json"

// absent is a name that no package has. Asking for it has the package set pinned and its evaluation
// looked up, and stores no blob.
const absent = "there-is-no-such-package"

// A server is a registry: the product's, the stock one, or one that has no more than a URL.
type server struct {
	url    string
	client *http.Client
	log    string // file
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
}

// settings are what differs between the registries of the groups. The zero value serves the demo
// set in gzip.
type settings struct {
	compression string
	packages    map[string]any // in place of the demo set
	refresh     time.Duration  // 0: the default
	nix         map[string]any // in place of no substituters
	errorsOnly  bool           // logs no line for each request
	storeless   bool           // packs what binary caches have, without a store
	wrap        []string       // a command that runs the rest of its arguments
	conf        string         // NIX_CONF_DIR for the programs of Nix, or empty
}

// The directories of the one registry that runs at a time, and of the stock one beside it.
func (b *bench) storage() string      { return filepath.Join(b.dir, "storage") }
func (b *bench) programsFile() string { return filepath.Join(b.dir, "programs") }

// empty removes all that registries have stored, but for the evaluations of packages.
func (b *bench) empty() error {
	keep := filepath.Join(b.dir, "packages")
	evaluations := filepath.Join(b.storage(), "nix", "v1", "packages")
	if err := os.RemoveAll(keep); err != nil {
		return err
	}
	if err := os.Rename(evaluations, keep); err != nil {
		return err
	}
	if err := os.RemoveAll(b.storage()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(evaluations), 0o755); err != nil {
		return err
	}
	err := os.Rename(keep, evaluations)
	syscall.Sync() // so that no measurement waits for what the one before it has written or removed
	return err
}

// start starts the product's registry. Its first answer is not slower than others: the package set
// is pinned when it returns.
func (b *bench) start(ctx context.Context, with settings) (*server, error) {
	s, err := b.startCold(ctx, with)
	if err != nil {
		return nil, err
	}
	status, body, err := s.get(ctx, "/v2/"+absent+"/manifests/latest")
	if err == nil && status != http.StatusNotFound {
		err = fmt.Errorf("asking for %s: status %d, %s", absent, status, body)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startCold is start without the first question.
func (b *bench) startCold(ctx context.Context, with settings) (*server, error) {
	options := map[string]any{
		"packages": map[string]any{"path": b.demo()},
		"build":    map[string]any{"timeout": "10m", "perclient": 1000, "queue": 1000, "newperhour": 1_000_000},
		"image":    map[string]any{"compression": "gzip"},
		"nix":      map[string]any{"substituters": []string{}},
		"cachedir": filepath.Join(b.dir, "cache"),
	}
	if with.storeless {
		options["build"].(map[string]any)["storeless"] = true
	}
	if with.compression != "" {
		options["image"] = map[string]any{"compression": with.compression}
	}
	if with.packages != nil {
		options["packages"] = with.packages
	}
	if with.refresh != 0 {
		options["refresh"] = with.refresh.String()
	}
	if with.nix != nil {
		options["nix"] = with.nix
	}
	config, err := b.config(with)
	if err != nil {
		return nil, err
	}
	config["middleware"] = map[string]any{"repository": []any{map[string]any{"name": "nix", "options": options}}}
	bin, err := b.countPrograms(with.conf)
	if err != nil {
		return nil, err
	}
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	return b.launch(ctx, "registry", config, env, slices.Concat(with.wrap, []string{b.program()}))
}

// startStock starts the stock registry on the same storage, which heeds errorsOnly alone. It sends
// traces unless it is told not to.
func (b *bench) startStock(ctx context.Context, with settings) (*server, error) {
	config, err := b.config(with)
	if err != nil {
		return nil, err
	}
	return b.launch(ctx, "stock", config, append(os.Environ(), "OTEL_TRACES_EXPORTER=none"), []string{b.stock()})
}

// config is what both registries have. It names a port that is free.
func (b *bench) config(with settings) (map[string]any, error) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer port.Close()
	level := "info"
	if with.errorsOnly {
		level = "error"
	}
	return map[string]any{
		"version": "0.1",
		"log":     map[string]any{"level": level, "accesslog": map[string]any{"disabled": true}},
		"storage": map[string]any{
			"filesystem": map[string]any{"rootdirectory": b.storage()},
			"delete":     map[string]any{"enabled": true},
		},
		"http": map[string]any{"addr": port.Addr().String(), "draintimeout": "5s", "secret": "no secret"},
	}, nil
}

// countPrograms makes a directory of programs of Nix that write a line before they do what is
// expected of them.
func (b *bench) countPrograms(conf string) (string, error) {
	bin := filepath.Join(b.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(b.programsFile(), nil, 0o666); err != nil {
		return "", err
	}
	if err := os.Chmod(b.programsFile(), 0o666); err != nil { // evaluations are another user's
		return "", err
	}
	for _, name := range []string{"nix-instantiate", "nix-daemon", "nix-store", "nix"} {
		program, err := exec.LookPath(name)
		if err != nil {
			return "", err
		}
		script := fmt.Sprintf("#!/bin/sh\necho %s >>'%s'\n", name, b.programsFile())
		if conf != "" {
			script += fmt.Sprintf("export NIX_CONF_DIR='%s'\n", conf)
		}
		script += fmt.Sprintf("exec '%s' \"$@\"\n", program)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			return "", err
		}
	}
	return bin, nil
}

// programs counts the programs of Nix that the registry has started.
func (b *bench) programs() (int, error) {
	content, err := os.ReadFile(b.programsFile())
	return bytes.Count(content, []byte("\n")), err
}

// launch starts a registry that ends with the context, and returns when it listens.
func (b *bench) launch(
	ctx context.Context, name string, config map[string]any, env, program []string,
) (*server, error) {
	content, err := json.MarshalIndent(config, "", "  ") // which is YAML too
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, name+".yml")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return nil, err
	}
	address := config["http"].(map[string]any)["addr"].(string)
	s := &server{
		url: "http://" + address, client: newClient(),
		log: filepath.Join(b.dir, name+".log"), ended: make(chan struct{}),
	}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.CommandContext(ctx, program[0], slices.Concat(program[1:], []string{"serve", file})...)
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = env, log, log
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = stopTime
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // the process state is looked at where it matters
		close(s.ended)
	}()
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-s.ended:
			text, err := os.ReadFile(s.log)
			return nil, errors.Join(fmt.Errorf(
				"%s has ended: %v\n%s", strings.Join(s.cmd.Args, " "), s.cmd.ProcessState, text,
			), err)
		default:
		}
		if connection, err := net.Dial("tcp", address); err == nil {
			connection.Close()
			return s, nil
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s does not listen after %v: see %s", strings.Join(s.cmd.Args, " "), startTime, s.log)
}

// stop ends a server and returns when it has ended. It may be called twice.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-s.ended:
	case <-time.After(stopTime):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// took is how long the registry says that it built the last image, without what comes before and
// after.
func (s *server) took() (time.Duration, error) {
	log, err := os.ReadFile(s.log)
	if err != nil {
		return 0, err
	}
	all := builtLine.FindAllSubmatch(log, -1)
	if len(all) == 0 {
		return 0, fmt.Errorf("the registry built nothing: see %s", s.log)
	}
	return time.ParseDuration(string(all[len(all)-1][1]))
}

// builds counts the images that were built.
func (s *server) builds() (int, error) {
	log, err := os.ReadFile(s.log)
	return len(builtLine.FindAll(log, -1)), err
}

var builtLine = regexp.MustCompile(`msg="nix: built .* took=(\S+)`)

// A usage is what a server and the processes that it has started have used so far.
type usage struct {
	cpu      time.Duration // of all, in steps of 10 ms
	peak     int64         // bytes of resident memory of the server alone, at its highest
	children int64         // the same of the processes that it has now, added up
}

// usage reads /proc.
func (s *server) usage() (usage, error) {
	var u usage
	if s.cmd == nil {
		return u, nil // of another's
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return u, err
	}
	parents, cpu := make(map[int]int), make(map[int]time.Duration)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from the third on, see proc(5)
		if len(fields) < 15 {
			return u, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
		}
		number := func(field int) int { n, _ := strconv.Atoi(string(fields[field-3])); return n }
		parents[pid] = number(4)
		cpu[pid] = 10 * time.Millisecond * time.Duration(
			number(14)+number(15)+number(16)+number(17),
		) // children that have ended included
	}
	for pid := range parents {
		above := pid
		for above > 1 && above != s.cmd.Process.Pid {
			above = parents[above]
		}
		if above != s.cmd.Process.Pid {
			continue
		}
		u.cpu += cpu[pid]
		peak, err := memoryOf(pid, "VmHWM")
		switch {
		case pid == s.cmd.Process.Pid && err != nil:
			return u, err
		case pid == s.cmd.Process.Pid:
			u.peak = peak
		default:
			u.children += peak
		}
	}
	return u, nil
}

// memoryOf is a value of a process's status in /proc: VmHWM or VmRSS, in bytes.
func memoryOf(pid int, name string) (int64, error) {
	text, _, _ := strings.Cut(field(fmt.Sprintf("/proc/%d/status", pid), name), " ")
	n, err := strconv.ParseInt(text, 10, 64)
	return n * 1024, err
}

// newClient makes one that follows a registry that sends it round for as long as that takes.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > 1000 {
				return errors.New("sent round 1000 times")
			}
			return nil
		},
	}
}

// get answers a GET of a path, following redirects.
func (s *server) get(ctx context.Context, path string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Accept", accept)
	response, err := s.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// pull gets the manifest of name:latest.
func (s *server) pull(ctx context.Context, name string) (v1.Manifest, error) {
	var m v1.Manifest
	status, body, err := s.get(ctx, "/v2/"+name+"/manifests/latest")
	if err != nil {
		return m, err
	}
	if status != http.StatusOK {
		return m, fmt.Errorf("pulling %s from %s: status %d, %s", name, s.url, status, body)
	}
	return m, json.Unmarshal(body, &m)
}

func (s *server) blob(ctx context.Context, name string, dgst digest.Digest) ([]byte, error) {
	status, body, err := s.get(ctx, "/v2/"+name+"/blobs/"+dgst.String())
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("getting blob %s of %s: status %d, %s", dgst, name, status, body)
	}
	return body, err
}

// timedPull is pull with what it costs: processor time is that of the server's processes, bytes are
// those of the layers.
func (s *server) timedPull(ctx context.Context, name string) (cost, error) {
	before, err := s.usage()
	if err != nil {
		return cost{}, err
	}
	started := time.Now()
	m, err := s.pull(ctx, name)
	if err != nil {
		return cost{}, err
	}
	c := cost{wall: time.Since(started), bytes: layerBytes(m), layers: len(m.Layers)}
	after, err := s.usage()
	c.cpu = after.cpu - before.cpu
	return c, err
}

// manifestDigest is what name:latest stands for.
func (s *server) manifestDigest(ctx context.Context, name string) (string, error) {
	status, body, err := s.get(ctx, "/v2/"+name+"/manifests/latest")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("pulling %s from %s: status %d, %s", name, s.url, status, body)
	}
	return digest.FromBytes(body).String(), err
}

// layerBytes is what a client loads of an image that it has nothing of.
func layerBytes(m v1.Manifest) (n int64) {
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}

// closure reads from an image's history which store paths it has.
func (s *server) closure(ctx context.Context, name string, m v1.Manifest) ([]string, error) {
	body, err := s.blob(ctx, name, m.Config.Digest)
	if err != nil {
		return nil, err
	}
	var config v1.Image
	if err := json.Unmarshal(body, &config); err != nil {
		return nil, err
	}
	var paths []string
	for _, history := range config.History {
		for _, word := range strings.Fields(history.CreatedBy) {
			if strings.HasPrefix(word, "/nix/store/") {
				paths = append(paths, word)
			}
		}
	}
	slices.Sort(paths)
	return paths, nil
}
