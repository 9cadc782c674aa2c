package proc

import (
	"cmp"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Process is a running program. Writes go to its stdin, reads come from its stdout. Reads give
// io.EOF once it has ended. One goroutine may read while another writes; the other methods can be
// called at any time.
type Process struct {
	command Command
	pipes   pipes
	child   *child
	stderr  tail
	done    chan struct{}
	err     error // after done
	stop    sync.Once
}

// Start starts a program that runs until Stop. The caller must call Stop, even if the program has
// ended by itself.
func (r *Runner) Start(command Command) (*Process, error) {
	child, ours, err := r.start(command, os.Pipe)
	if err != nil {
		return nil, newError(command, nil, nil, err)
	}
	p := &Process{command: command, pipes: ours, child: child, done: make(chan struct{})}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(&p.stderr, ours[2])
	}()
	go func() {
		defer close(p.done)
		<-child.done
		if !endsWithin(copied, cmp.Or(command.Grace, defaultGrace)) {
			ours[2].Close() // a process that has left the group keeps it open
			<-copied
		}
		if err := child.ending(); err != nil {
			p.err = newError(command, &child.status, p.stderr.bytes(), err)
		}
	}()
	return p, nil
}

func (p *Process) Read(b []byte) (int, error)  { return p.pipes[1].Read(b) }
func (p *Process) Write(b []byte) (int, error) { return p.pipes[0].Write(b) }

// Stderr is the end of the program's stderr so far, 4 KiB at most.
func (p *Process) Stderr() string { return string(p.stderr.bytes()) }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is the *Error of a program that has not ended well; nil while it runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop ends the program. It closes stdin, sends the command's Kill signal if the program has not
// ended after wait, and sends SIGKILL after the command's Grace. It returns when the program has
// ended; reads fail from then on.
func (p *Process) Stop(wait time.Duration) {
	p.stop.Do(func() {
		p.pipes[0].Close()
		if !endsWithin(p.done, wait) {
			_ = signalGroup(p.child.pid, killSignal(p.command))
			if !endsWithin(p.done, cmp.Or(p.command.Grace, defaultGrace)) {
				_ = signalGroup(p.child.pid, syscall.SIGKILL)
			}
		}
		<-p.done
		p.pipes.close()
	})
	<-p.done
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
