package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// craneModule is where crane comes from: no distribution has a package of it.
const craneModule = "github.com/google/go-containerregistry/cmd/crane@v0.20.6"

// commandTime is how long any command may take. It is there to show where a test hangs.
const commandTime = 5 * time.Minute

// Needs makes sure that tools are there, and that docker has a daemon. Where one is missing, the
// test ends as [needs.Missing] has it.
func Needs(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		var err error
		switch tool {
		case "crane":
			_, err = shared.crane()
		case "docker":
			err = shared.docker.start()
		default:
			_, err = exec.LookPath(tool)
		}
		if err != nil {
			needs.Missing(t, "%s is needed: %v", tool, err)
		}
	}
}

// Exec runs a command that must succeed, and returns what it wrote to stdout, without white space
// at the ends.
func Exec(t testing.TB, name string, args ...string) string {
	t.Helper()
	stdout, stderr, err := TryExec(t.Context(), name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// TryExec runs a command in the environment that the tests share. The texts have no white space at
// the ends.
func TryExec(ctx context.Context, name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	program, err := shared.lookPath(name)
	if err != nil {
		return "", "", err
	}
	var out, errOut bytes.Buffer
	command := exec.CommandContext(ctx, program, args...)
	command.Env = shared.environ()
	command.Stdout, command.Stderr = &out, &errOut
	command.WaitDelay = time.Second
	err = command.Run()
	return strings.TrimSpace(out.String()), strings.TrimSpace(errOut.String()), err
}

// lookPath finds programs that the tests bring before those of the machine.
func (s *suite) lookPath(name string) (string, error) {
	for _, dir := range s.path() {
		if program, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return program, nil
		}
	}
	return exec.LookPath(name)
}

func (s *suite) path() []string {
	return []string{filepath.Join(s.dir, "bin"), filepath.Join(s.root, "build", "tools")}
}

// installCrane builds crane where it stays for the next time.
func (s *suite) installCrane() (string, error) {
	_, version, _ := strings.Cut(craneModule, "@")
	dir := filepath.Join(s.root, "build", "tools")
	program := filepath.Join(dir, "crane")
	if out, err := exec.Command(program, "version").Output(); err == nil && strings.TrimSpace(string(out)) == version {
		return program, nil
	}
	install := exec.Command("go", "install", craneModule)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing %s: %w\n%s", craneModule, err, out)
	}
	return program, nil
}

// startServer starts a program that is stopped when the test ends, or when the tests are ended
// without notice.
func startServer(t testing.TB, server *exec.Cmd) {
	t.Helper()
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	})
}
