package proc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// asUser runs a test of this package again, as another user than root, in a process with a secret.
func asUser(t *testing.T, test string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "proc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self = filepath.Join(dir, "test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(self, program, 0o755)); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(self, "-test.run=^"+test+"$", "-test.v")
	command.Env = []string{"PATH=/usr/bin:/bin", "PROC_TEST_USER=1", "AWS_SECRET_ACCESS_KEY=CANARY"}
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("as user 1000: %v:\n%s", err, output)
	} else if strings.Contains(string(output), "SKIP") {
		needs.Missing(t, "as user 1000:\n%s", output)
	}
}

// A protected registry keeps its secrets from other processes of its user, and its evaluations keep
// their isolation.
func TestProtect(t *testing.T) {
	if os.Getenv("PROC_TEST_USER") == "" {
		needs.Root(t, "to start a process of another user")
		asUser(t, "TestProtect")
		return
	}
	environ := fmt.Sprintf("/proc/%d/environ", os.Getpid())
	read := func(r *Runner) (string, error) {
		output, err := r.Run(t.Context(), Command{Program: "/bin/cat", Args: []string{environ}})
		return string(output.Stdout), err
	}
	if text, err := read(new(Runner)); err != nil || !strings.Contains(text, "CANARY") {
		t.Fatalf("what this test reads, it could not read anyway: %q, %v", text, err)
	}
	if err := Protect(); err != nil {
		t.Fatal(err)
	}
	r, warnings := New()
	if len(warnings) > 0 {
		needs.Missing(t, "the host permits less: %s", warnings)
	}
	if text, err := read(r); err == nil || text != "" {
		t.Errorf("another process of this user reads %q", text)
	}
	for _, file := range []string{"mem", "maps", "auxv", "fd/0"} {
		output, err := r.Run(
			t.Context(),
			Command{Program: "/bin/cat", Args: []string{filepath.Join(filepath.Dir(environ), file)}},
		)
		if err == nil || len(output.Stdout) > 0 {
			t.Errorf("another process of this user reads %s: %q", file, output.Stdout)
		}
	}

	for _, test := range []struct{ name, text, want string }{
		{"first of its processes", "echo $$", "1\n"},
		{"no capabilities", "grep Cap /proc/self/status | grep -v CapBnd | grep -vc 0000000000000000; true", "0\n"},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
		{"no network", "grep -c : /proc/net/dev", "1\n"},
		{"no environment", "env | grep -v ^PWD= | grep -v ^SHLVL= | grep -v ^_=; true", ""},
		{"user", "id -u", "1000\n"},
		{"ended first", "until test $(cat /proc/self/oom_score_adj) -ge 500; do sleep 0.01; done", ""},
		{"limits", "until test $(ulimit -v) = 1048576; do sleep 0.01; done; ulimit -c", "0\n"},
	} {
		command := script(test.text)
		command.Confine = &Confinement{Memory: 1 << 30, CPU: 10 * time.Second}
		if test.name != "no environment" {
			command.Env = []string{"PATH=/usr/bin:/bin"}
		}
		output, err := r.Run(t.Context(), command)
		if err != nil || string(output.Stdout) != test.want {
			t.Errorf("%s: %q, %v, want %q", test.name, output.Stdout, err, test.want)
		}
	}
	for _, namespace := range []string{"user", "pid", "ipc", "net"} {
		host, err := os.Readlink("/proc/self/ns/" + namespace)
		if err != nil {
			t.Fatal(err)
		}
		output, err := r.Run(
			t.Context(),
			Command{Program: "/bin/readlink", Args: []string{"/proc/self/ns/" + namespace}, Confine: &Confinement{}},
		)
		if err != nil || strings.TrimSpace(string(output.Stdout)) == host {
			t.Errorf("%s namespace is %q, that of the host: %v", namespace, output.Stdout, err)
		}
	}
}

// TestLauncher runs other tests of this package as a user whose confined programs the launcher
// starts.
func TestLauncher(t *testing.T) {
	needs.Root(t, "to start a process of another user")
	for _, test := range []string{
		"TestRun", "TestConfinement", "TestOwnNetwork", "TestCancelEndsTheWholeGroup", "TestProcess",
		"TestProcessThatDies", "TestDiesWithParent",
	} {
		t.Run(test, func(t *testing.T) { asUser(t, test) })
	}
}

// A launcher that has died is replaced, and the programs that it had started have died with it.
func TestLauncherDies(t *testing.T) {
	if os.Geteuid() == 0 {
		asUser(t, "TestLauncherDies")
		return
	}
	r, _ := New()
	if r.launcher == nil {
		needs.Missing(t, "the host permits no user namespace")
	}
	p, err := r.Start(Command{Program: "/bin/cat", Confine: &Confinement{}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(0)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.child.pid))
	if err != nil {
		t.Fatal(err)
	}
	var launcher int
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "PPid: %d", &launcher)
	}
	if err := syscall.Kill(launcher, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(p); err != nil || len(text) > 0 {
		t.Errorf("read %q, %v", text, err)
	}
	<-p.Done()
	if p.Err() == nil {
		t.Error("a program whose launcher has died has ended well")
	}
	output, err := r.Run(
		t.Context(), Command{Program: "/bin/echo", Args: []string{"again", "\xff"}, Confine: &Confinement{}},
	)
	if err != nil || string(output.Stdout) != "again \xff\n" {
		t.Errorf("%q, %v", output.Stdout, err)
	}
}

// A program with a network of its own reaches the listener there, and nothing of the host's.
func TestOwnNetwork(t *testing.T) {
	r, _ := New()
	if !r.OwnNetworks() {
		needs.Missing(t, "the host permits no network of its own")
	}
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	_, port, _ := net.SplitHostPort(host.Addr().String())
	_, own, _ := net.SplitHostPort(LoopbackAddress)
	command := Command{
		Program: "/bin/bash",
		Args: []string{
			"-c",
			"read -r line </dev/tcp/127.0.0.1/" + own + "; echo $line; : </dev/tcp/127.0.0.1/" + port + " || wc -l </proc/net/route",
		},
	}
	command.Env = []string{"PATH=/usr/bin:/bin"}
	command.Confine = &Confinement{Loopback: func(listener net.Listener) {
		go func() {
			defer listener.Close()
			conn, err := listener.Accept()
			if err == nil {
				fmt.Fprintln(conn, "hello")
				conn.Close()
			}
		}()
	}}
	for range 2 { // each has its own
		output, err := r.Run(t.Context(), command)
		if err != nil || string(output.Stdout) != "hello\n1\n" {
			t.Errorf("%q, %v", output.Stdout, err)
		}
	}
}
