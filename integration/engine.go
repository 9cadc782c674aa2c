package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An Engine pulls and runs images: docker or podman. Images and containers are apart from the
// machine's own.
type Engine struct {
	Name string
	pull []string
}

// Engines are those of the tests, for a subtest each. What is run must choose a network: none or
// host.
var Engines = []Engine{
	{Name: "docker", pull: []string{"pull", "-q"}},
	{Name: "podman", pull: []string{"pull", "-q", "--tls-verify=false"}},
}

// Pull pulls an image, with further options of the engine's.
func (e Engine) Pull(t testing.TB, ref string, options ...string) {
	t.Helper()
	e.Exec(t, slices.Concat(e.pull, options, []string{ref})...)
}

// Run runs a command in a container, and returns what it wrote to stdout. Args are what stands
// after `docker run --rm`.
func (e Engine) Run(t testing.TB, args ...string) string {
	t.Helper()
	return e.Exec(t, append([]string{"run", "--rm"}, args...)...)
}

// Exec runs one of the engine's commands.
func (e Engine) Exec(t testing.TB, args ...string) string {
	t.Helper()
	Needs(t, e.tools()...)
	return Exec(t, e.Name, args...)
}

func (e Engine) tools() []string {
	if e.Name == "podman" {
		return []string{"podman", "conmon", "runc"}
	}
	return []string{e.Name}
}

// Detach starts a container that is removed when the test ends, and returns the process ID of its
// first process.
func (e Engine) Detach(t testing.TB, args ...string) string {
	t.Helper()
	container := e.Exec(t, append([]string{"run", "--detach"}, args...)...)
	t.Cleanup(func() {
		// The test's context has ended by now.
		if out, stderr, err := TryExec(context.Background(), e.Name, "rm", "--force", container); err != nil {
			t.Errorf("removing container %s: %v\n%s%s", container, err, out, stderr)
		}
	})
	return e.Exec(t, "inspect", "--format", "{{.State.Pid}}", container)
}

// A dockerDaemon is started when the first test needs it. Its containers have no network, or the
// host's: so it leaves the host's firewall and interfaces alone.
type dockerDaemon struct {
	dir   string
	once  sync.Once
	err   error
	cmd   *exec.Cmd
	ended chan struct{}
}

func newDockerDaemon(dir string) *dockerDaemon {
	return &dockerDaemon{dir: dir, ended: make(chan struct{})}
}

func (d *dockerDaemon) host() string { return "unix://" + filepath.Join(d.dir, "docker.sock") }

func (d *dockerDaemon) start() error {
	d.once.Do(func() { d.err = d.run() })
	return d.err
}

func (d *dockerDaemon) run() error {
	if _, err := exec.LookPath("docker"); err != nil {
		return err
	}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("dockerd",
		"--host", d.host(), "--pidfile", filepath.Join(d.dir, "pid"),
		"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"),
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
	)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.cmd = cmd
	go func() {
		_ = cmd.Wait()
		close(d.ended)
	}()
	for deadline := time.Now().Add(startTime); ; time.Sleep(10 * pollTime) {
		_, _, err := TryExec(context.Background(), "docker", "version")
		if err == nil {
			return nil
		}
		select {
		case <-d.ended:
		default:
			if time.Now().Before(deadline) {
				continue
			}
		}
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("starting dockerd: %w\n%s", err, text)
	}
}

// stop ends the daemon, which ends its containers and unmounts their file systems.
func (d *dockerDaemon) stop() error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping dockerd: %w", err)
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(stopTime):
		return fmt.Errorf("stopping dockerd: it still runs after %v", stopTime)
	}
}

// Unless told otherwise, podman asks for limits that some machines do not let even root have.
const containersConf = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = %q
`

const storageConf = `[storage]
driver = "overlay"
graphroot = %q
runroot = %q
`

// configureEngines writes the files that keep docker's clients and podman away from what the
// machine's user has configured. Podman gets a directory of its own in the same way, and needs
// neither systemd nor a network then.
func (s *suite) configureEngines() error {
	podman := s.podmanDir()
	for name, content := range map[string]string{
		filepath.Join(s.dockerConfig(), "config.json"): "{}",
		filepath.Join(podman, "containers.conf"):       fmt.Sprintf(containersConf, filepath.Join(podman, "tmp")),
		filepath.Join(podman, "storage.conf"): fmt.Sprintf(
			storageConf, filepath.Join(podman, "root"), filepath.Join(podman, "run"),
		),
		filepath.Join(podman, "registries.conf"): "",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) dockerConfig() string { return filepath.Join(s.dir, "docker-config") }

func (s *suite) podmanDir() string { return filepath.Join(s.dir, "podman") }

// podmanVariables are for podman and skopeo.
func (s *suite) podmanVariables() []string {
	dir := s.podmanDir()
	return []string{
		"CONTAINERS_CONF=" + filepath.Join(dir, "containers.conf"),
		"CONTAINERS_STORAGE_CONF=" + filepath.Join(dir, "storage.conf"),
		"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(dir, "registries.conf"),
	}
}

// unmount unmounts what engines have left mounted below a directory, the last first.
func unmount(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var below []string
	for lines := bufio.NewScanner(bytes.NewReader(mounts)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			below = append(below, fields[4])
		}
	}
	for _, target := range slices.Backward(below) {
		if err := syscall.Unmount(target, 0); err != nil {
			return fmt.Errorf("unmounting %s: %w", target, err)
		}
	}
	return nil
}
