package needs

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Redis is a server of a test's own. It listens on a socket: nobody can take that, as happens to
// ports.
type Redis struct {
	Socket    string
	arguments []string
	server    *exec.Cmd
}

// StartRedis starts a server that ends with the test. Arguments are more ones of redis-server, of
// which the first may be a file of configuration.
func StartRedis(t testing.TB, arguments ...string) *Redis {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis") // names of sockets are short, and those of tests may be long
	if err != nil {
		t.Fatal(err)
	}
	r := &Redis{Socket: filepath.Join(dir, "redis.sock")}
	own := []string{"--port", "0", "--unixsocket", r.Socket, "--save", "", "--dir", dir}
	if len(arguments) > 0 && filepath.IsAbs(arguments[0]) {
		own, arguments = append([]string{arguments[0]}, own...), arguments[1:]
	}
	r.arguments = append(own, arguments...)
	r.Start(t)
	t.Cleanup(func() {
		r.Signal(t, syscall.SIGKILL)
		_ = os.RemoveAll(dir)
	})
	return r
}

// Start starts the server again when it was killed, and returns when it answers.
func (r *Redis) Start(t testing.TB) {
	t.Helper()
	r.server = exec.CommandContext(context.Background(), Tool(t, "redis-server"), r.arguments...)
	r.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.server.Start(); err != nil {
		t.Fatal(err)
	}
	client := Tool(t, "redis-cli")
	for exec.CommandContext(t.Context(), client, "-s", r.Socket, "ping").Run() != nil {
		if r.server.ProcessState != nil || t.Context().Err() != nil {
			t.Fatal("redis-server does not answer")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Signal sends the server a signal. After SIGKILL it has ended.
func (r *Redis) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := r.server.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	if signal == syscall.SIGKILL {
		_ = r.server.Wait() // which fails if it was killed before
	}
}

// Tell tells the server a command, as redis-cli does, and returns what that prints.
func (r *Redis) Tell(t testing.TB, words ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "redis-cli", append([]string{"-s", r.Socket}, words...)...)
	printed, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli %q: %v: %s", words, err, printed)
	}
	return strings.TrimSpace(string(printed))
}
