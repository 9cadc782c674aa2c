package proc

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A Process is a program that is spoken to: what is written goes to its stdin, what it writes on stdout is read. Reads give io.EOF once
// it has ended. One goroutine may read while another writes; the other methods can be called at any time.
type Process struct {
	command Command
	stdin   *os.File
	stdout  *os.File
	stderr  tail
	pid     int
	done    chan struct{}
	err     error // after done
	stop    sync.Once
}

// Start starts a program that runs until Stop. The caller must call Stop, even if the program has ended by itself.
func (r *Runner) Start(command Command) (*Process, error) {
	childIn, stdin, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", command.Program, err)
	}
	defer childIn.Close()
	stdout, childOut, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return nil, fmt.Errorf("starting %s: %w", command.Program, err)
	}
	defer childOut.Close()

	p := &Process{command: command, stdin: stdin, stdout: stdout, done: make(chan struct{})}
	c := exec.Command(command.Program, command.Args...) //nolint:noctx // Stop ends it
	c.Stdin, c.Stdout, c.Stderr = childIn, childOut, &p.stderr
	c.WaitDelay = orDefault(command.Grace, defaultGrace) // for stderr, should a child of the program keep it open
	ended, err := r.start(c, command)
	if err != nil {
		stdin.Close()
		stdout.Close()
		return nil, newError(command, nil, nil, err)
	}
	p.pid = c.Process.Pid
	go func() {
		defer close(p.done)
		if err := <-ended; err != nil {
			p.err = newError(command, c.ProcessState, p.stderr.bytes(), err)
		}
	}()
	return p, nil
}

func (p *Process) Read(b []byte) (int, error)  { return p.stdout.Read(b) }
func (p *Process) Write(b []byte) (int, error) { return p.stdin.Write(b) }

// Stderr is the end of what the program has written there so far, 4 KiB at most.
func (p *Process) Stderr() string { return string(p.stderr.bytes()) }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is the *Error of a program that has not ended well, nil while it runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop ends the program: it closes stdin, sends the command's Kill signal if the program has not ended after wait, and SIGKILL after the command's Grace. It returns
// when the program has ended; reads fail from then on.
func (p *Process) Stop(wait time.Duration) {
	p.stop.Do(func() {
		p.stdin.Close()
		if !p.endsWithin(wait) {
			_ = signalGroup(p.pid, killSignal(p.command))
			if !p.endsWithin(orDefault(p.command.Grace, defaultGrace)) {
				_ = signalGroup(p.pid, syscall.SIGKILL)
			}
		}
		<-p.done
		p.stdout.Close()
	})
	<-p.done
}

func (p *Process) endsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p[max(0, len(p)-stderrTail):]...)
	t.last = append([]byte(nil), t.last[max(0, len(t.last)-stderrTail):]...)
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.last...)
}
