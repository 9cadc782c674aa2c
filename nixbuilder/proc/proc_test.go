package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// script makes a command of a few shell words, for tests alone: the programs under test are
// everyday ones.
func script(text string, args ...string) Command {
	return Command{Program: "/bin/sh", Args: append([]string{"-c", text, "sh"}, args...)}
}

func TestRun(t *testing.T) {
	t.Setenv("PROC_TEST_SECRET", "leaked")
	confined := func(c Command, confine Confinement) Command {
		c.Confine = &confine
		return c
	}
	for _, test := range []struct {
		name    string
		command Command
		stdout  string
		want    *Error // nil: ends well; the cause is not compared
	}{
		{
			name:    "arguments are not words of a shell",
			command: script(`printf '[%s]' "$@"`, "a b", "$(id)", "-n", "*", ""),
			stdout:  "[a b][$(id)][-n][*][]",
		},
		{
			name:    "environment is the one given",
			command: Command{Program: "/usr/bin/env", Env: []string{"A=1"}}, stdout: "A=1\n",
		},
		{
			name:    "the last of several values holds",
			command: Command{Program: "/usr/bin/env", Env: []string{"A=1", "B=2", "A=3"}},
			stdout:  "B=2\nA=3\n",
		},
		{name: "no environment is none", command: Command{Program: "/usr/bin/env"}},
		{name: "stdin is empty", command: Command{Program: "/bin/cat"}},
		{name: "root directory", command: Command{Program: "/bin/pwd"}, stdout: "/\n"},
		{name: "own directory", command: Command{Program: "/bin/pwd", Dir: "/usr"}, stdout: "/usr\n"},
		{
			name: "exit status", command: script("echo out; echo why >&2; exit 101"), stdout: "out\n",
			want: &Error{Exit: 101, Stderr: "why\n"},
		},
		{name: "signal", command: script("kill -ABRT $$"), want: &Error{Exit: -1, Signal: syscall.SIGABRT}},
		{name: "no such program", command: Command{Program: "/nonexistent/program"}, want: &Error{Exit: -1}},
		{name: "both pipes are drained", command: script("head -c 300000 /dev/zero >&2; echo end"), stdout: "end\n"},
		{
			name:    "too much output",
			command: Command{Program: "/bin/sh", Args: []string{"-c", "while :; do echo yes; done"}, MaxOutput: 8},
			stdout:  "yes\nyes\n",
			want:    &Error{Exit: -1, Signal: syscall.SIGKILL, OutputLimit: true},
		},
		{
			name:    "as much output as there may be",
			command: Command{Program: "/bin/echo", Args: []string{"1234567"}, MaxOutput: 8},
			stdout:  "1234567\n",
		},
		{
			name:    "out of processor time",
			command: confined(script("while :; do :; done"), Confinement{CPU: time.Second}),
			want:    &Error{Exit: -1, Signal: syscall.SIGKILL, CPULimit: true},
		},
		{
			name: "out of memory",
			command: confined(
				Command{Program: "/usr/bin/head", Args: []string{"-c", "-999999999", "/dev/zero"}},
				Confinement{Memory: 64 << 20},
			),
			want: &Error{Exit: 1, Stderr: "/usr/bin/head: memory exhausted\n"},
		},
		{
			name:    "no core dumps, no new privileges",
			command: confined(script("ulimit -c; grep NoNewPrivs /proc/self/status"), Confinement{}),
			stdout:  "0\nNoNewPrivs:\t1\n",
		},
		{name: "trusted", command: script("grep NoNewPrivs /proc/self/status"), stdout: "NoNewPrivs:\t0\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := New()
			output, err := r.Run(t.Context(), test.command)
			if string(output.Stdout) != test.stdout {
				t.Errorf("stdout %q, want %q", output.Stdout, test.stdout)
			}
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("error %v, want an *Error", err)
			}
			if got.Unwrap() == nil {
				t.Error("no cause")
			}
			text := func(e *Error) string {
				return fmt.Sprintf("%d %v %v %v %q", e.Exit, e.Signal, e.CPULimit, e.OutputLimit, e.Stderr)
			}
			if text(got) != text(test.want) {
				t.Errorf("error %#v, want %#v", got, test.want)
			}
			if !strings.Contains(got.Error(), test.command.Program) {
				t.Errorf("%q does not name %s", got, test.command.Program)
			}
		})
	}
}

func TestErrorHasNoPasswords(t *testing.T) {
	r, _ := New()
	const secret = "CANARY"
	_, err := r.Run(
		t.Context(),
		script("echo \"fatal: $1: no\" >&2; exit 1", "https://user:"+secret+"@git.example.org/x"),
	)
	var got *Error
	if !errors.As(err, &got) {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v %v", *got, err); strings.Contains(text, secret) ||
		strings.Count(got.Error(), "https://xxxxx@git.example.org/x") != 2 {
		t.Errorf("the error is %s", text)
	}
}

func TestErrorNamesLongArguments(t *testing.T) {
	r, _ := New()
	command := script("exit 1")
	command.ArgNames = map[string]string{command.Args[1]: "script.sh"}
	_, err := r.Run(t.Context(), command)
	if want := `running /bin/sh ["-c" "script.sh" "sh"]: exit status 1`; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"no URL":                            "no URL",
		"https://git.example.org/a@b":       "https://git.example.org/a@b",
		"https://user:secret@example.org/x": "https://xxxxx@example.org/x",
		"HTTPS://token@example.org":         "HTTPS://xxxxx@example.org",
		"'http://u:p@ss@example.org/x' and http://v:q@example.org": "'http://xxxxx@example.org/x' and http://xxxxx@example.org",
		"a=https://u:p%40@h https://h/?to=x@y":                     "a=https://xxxxx@h https://h/?to=x@y",
		"ssh://git@example.org/x":                                  "ssh://git@example.org/x",
		"ssh://git:secret@example.org/x":                           "ssh://xxxxx@example.org/x",
	} {
		if got := Redact(text); got != want {
			t.Errorf("of %s is left %s, want %s", text, got, want)
		}
	}
}

func TestErrorKeepsTheEndOfStderr(t *testing.T) {
	r, _ := New()
	_, err := r.Run(t.Context(), script("head -c 10000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1"))
	var got *Error
	if !errors.As(err, &got) {
		t.Fatal(err)
	}
	if len(got.Stderr) != stderrTail || !strings.HasSuffix(got.Stderr, "xlast\n") {
		t.Errorf("kept %d bytes, want the last %d", len(got.Stderr), stderrTail)
	}
}

func TestConfinement(t *testing.T) {
	r, warnings := New()
	if len(warnings) > 0 {
		needs.Missing(t, "the host permits less: %s", warnings)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	groups := map[bool][]string{false: {"65534", "65533"}, true: {"65533"}}
	user := func(apart bool) string {
		uid, gid := r.ConfinedUser(apart)
		if os.Geteuid() != 0 {
			return fmt.Sprintf("%d %d ", uid, gid)
		}
		return fmt.Sprintf("%d %d %s\n", uid, gid, strings.Join(groups[apart], " "))
	}
	if os.Geteuid() == 0 && user(true) == user(false) {
		t.Error("the second unprivileged user is the first one")
	}
	for _, test := range []struct {
		name, text string
		confine    *Confinement
		want       string // the beginning of stdout
	}{
		{"user", "echo $(id -u) $(id -g) $(id -G)", &Confinement{}, user(false)},
		{"second user", "echo $(id -u) $(id -g) $(id -G)", &Confinement{Apart: true, Memory: 1 << 30}, user(true)},
		{"trusted user", "echo $(id -u)", nil, strconv.Itoa(os.Geteuid()) + "\n"},
		{"first of its processes", "echo $$", &Confinement{}, "1\n"},
		{"no capabilities", "grep CapEff /proc/self/status", &Confinement{}, "CapEff:\t0000000000000000\n"},
		{"no file above 4 GiB", "until [ $(ulimit -f) != unlimited ]; do :; done; ulimit -f", &Confinement{}, "8388608\n"}, // blocks of 512 bytes
		{"the processors go to others first", "nice", &Confinement{}, "10\n"},
		{"trusted work takes its share", "nice", nil, "0\n"},
		{"no network", "grep -c : /proc/net/dev", &Confinement{}, "1\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			command := script(test.text)
			command.Env = []string{"PATH=/usr/bin:/bin"}
			command.Confine = test.confine
			output, err := r.Run(t.Context(), command)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(output.Stdout), test.want) {
				t.Errorf("got %q, want %q", output.Stdout, test.want)
			}
		})
	}
	t.Run("namespaces", func(t *testing.T) {
		for _, test := range []struct {
			namespace string
			confine   *Confinement
			own       bool
		}{
			{"net", &Confinement{}, true},
			{"net", &Confinement{Network: true}, false},
			{"net", nil, false},
			{"ipc", &Confinement{}, true},
			{"ipc", nil, false},
		} {
			host, err := os.Readlink("/proc/self/ns/" + test.namespace)
			if err != nil {
				t.Fatal(err)
			}
			output, err := r.Run(
				t.Context(),
				Command{
					Program: "/usr/bin/readlink",
					Args:    []string{"/proc/self/ns/" + test.namespace},
					Confine: test.confine,
				},
			)
			if err != nil {
				t.Fatal(err)
			}
			if own := strings.TrimSpace(string(output.Stdout)) != host; own != test.own {
				t.Errorf("%s namespace of its own with %+v: %v, want %v", test.namespace, test.confine, own, test.own)
			}
		}
	})
}

// TestThreadsKeepTheirUser checks that this process keeps what the thread of a confined program
// gives up.
func TestThreadsKeepTheirUser(t *testing.T) {
	r, _ := New()
	for range 20 {
		if _, err := r.Run(
			t.Context(), Command{Program: "/bin/true", Confine: &Confinement{CPU: time.Second}},
		); err != nil {
			t.Fatal(err)
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that has just ended
		}
		if err != nil {
			t.Fatal(err)
		}
		uids := fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", os.Getuid())
		if !strings.Contains(string(status), uids) {
			t.Errorf("thread %s has another user:\n%s", task.Name(), status)
		}
	}
}

func TestCancelEndsTheWholeGroup(t *testing.T) {
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		text   string
		want   syscall.Signal
	}{
		{"at once", 0, "sleep 1000 & echo $!; wait", syscall.SIGKILL},
		{"politely", syscall.SIGTERM, "sleep 1000 & echo $!; wait", syscall.SIGTERM},
		{"deaf to politeness", syscall.SIGTERM, "trap '' TERM; sleep 1000 & echo $!; wait", syscall.SIGKILL},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := New()
			fifo := t.TempDir() + "/fifo"
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			command := script("exec > "+fifo+"; "+test.text, fifo)
			command.Kill, command.Grace = test.signal, 100*time.Millisecond
			command.Env = []string{"PATH=/usr/bin:/bin"}
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			failed := make(chan error)
			go func() {
				_, err := r.Run(ctx, command)
				failed <- err
			}()
			child := childOf(t, fifo)
			defer child.Close()
			cancel(cause)

			err := <-failed
			var got *Error
			if !errors.As(err, &got) || !errors.Is(err, cause) || got.Signal != test.want {
				t.Errorf("error %v, want signal %v and the cause", err, test.want)
			}
			// Its end of the pipe closes when the last process of the group is gone.
			if _, err := io.Copy(io.Discard, child); err != nil {
				t.Error(err)
			}
		})
	}
}

// childOf opens the fifo that a script writes a line to, and waits for the line.
func childOf(t *testing.T, fifo string) *os.File {
	t.Helper()
	f, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(f).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCancelledBefore(t *testing.T) {
	r, _ := New()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Run(ctx, Command{Program: "/bin/true"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if n := r.Started(); n != 0 {
		t.Errorf("%d programs started, want none", n)
	}
}

func TestProcess(t *testing.T) {
	for _, test := range []struct {
		name string
		text string
		wait time.Duration
		want *Error
	}{
		{"ends with its input", "cat; echo bye >&2", time.Minute, nil},
		{"has to be told", "cat; sleep 1000", 0, &Error{Exit: -1, Signal: syscall.SIGTERM}},
		{
			"has to be forced", "trap '' TERM; cat; while :; do sleep 1; done", 0,
			&Error{Exit: -1, Signal: syscall.SIGKILL},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := New()
			command := script(test.text)
			command.Env = []string{"PATH=/usr/bin:/bin"}
			command.Kill, command.Grace = syscall.SIGTERM, 100*time.Millisecond
			p, err := r.Start(command)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(p, "ping\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(p).ReadString('\n'); err != nil || line != "ping\n" {
				t.Errorf("read %q, %v", line, err)
			}
			if p.Err() != nil {
				t.Errorf("failed while it ran: %v", p.Err())
			}
			p.Stop(test.wait)
			p.Stop(test.wait) // again is harmless
			<-p.Done()
			if n, err := p.Read(make([]byte, 1)); err == nil {
				t.Errorf("read %d bytes after the end", n)
			}
			if test.want == nil {
				if p.Err() != nil || p.Stderr() != "bye\n" {
					t.Errorf("error %v, stderr %q", p.Err(), p.Stderr())
				}
				return
			}
			var got *Error
			if !errors.As(p.Err(), &got) || got.Signal != test.want.Signal || got.Exit != test.want.Exit {
				t.Errorf("error %#v, want %#v", p.Err(), test.want)
			}
		})
	}
}

func TestProcessThatDies(t *testing.T) {
	r, _ := New()
	p, err := r.Start(script("printf partial; echo why >&2; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(0)
	<-p.Done()
	if out, err := io.ReadAll(p); err != nil || string(out) != "partial" {
		t.Errorf("read %q, %v: what it wrote before it died is lost", out, err)
	}
	var got *Error
	if !errors.As(p.Err(), &got) || got.Exit != 3 || got.Stderr != "why\n" {
		t.Errorf("error %#v", p.Err())
	}
	if _, err := r.Start(Command{Program: "/nonexistent/program"}); err == nil {
		t.Error("started a program that is not there")
	}
	if n := r.Started(); n != 1 {
		t.Errorf("%d programs started, want 1", n)
	}
}

// TestDiesWithParent runs this test again in a process that starts a program and is then killed.
func TestDiesWithParent(t *testing.T) {
	if fifo := os.Getenv("PROC_TEST_PARENT"); fifo != "" {
		r, _ := New()
		command := script("echo $$ > " + fifo + "; exec sleep 1000 > " + fifo)
		if os.Getenv("PROC_TEST_CONFINED") != "" {
			command.Confine = &Confinement{}
		}
		command.Env = []string{"PATH=/usr/bin:/bin"}
		if _, err := r.Start(command); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	for _, confined := range []string{"", "confined"} {
		t.Run("parent "+confined, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			dir, err := os.MkdirTemp("", "proc")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			fifo := dir + "/fifo"
			if err := errors.Join(
				syscall.Mkfifo(fifo, 0o600), os.Chmod(dir, 0o755), os.Chmod(fifo, 0o666),
			); err != nil {
				t.Fatal(err)
			}
			r, _ := New()
			parent, err := r.Start(
				Command{
					Program: self,
					Args:    []string{"-test.run=^TestDiesWithParent$"},
					Env:     []string{"PROC_TEST_PARENT=" + fifo, "PROC_TEST_CONFINED=" + confined},
				},
			)
			if err != nil {
				t.Fatal(err)
			}
			child := childOf(t, fifo)
			defer child.Close()
			parent.Stop(0)
			// Ends when the child, in a group of its own, has gone too.
			if _, err := io.Copy(io.Discard, child); err != nil {
				t.Error(err)
			}
		})
	}
}
