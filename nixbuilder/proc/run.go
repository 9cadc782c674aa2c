package proc

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	defaultGrace     = 5 * time.Second
	defaultMaxOutput = 16 << 20
)

// Output is what a program wrote. It is complete only if the program ended well.
type Output struct {
	Stdout, Stderr []byte
	// CPU is the processor time of the program and its children.
	CPU time.Duration
}

// Run runs a program to its end, with nothing on stdin. It fails with an *Error unless the program
// exits with status 0. Run returns what was written until then in any case. When ctx ends, so does
// the program.
func (r *Runner) Run(ctx context.Context, command Command) (Output, error) {
	if err := ctx.Err(); err != nil {
		return Output{}, newError(command, nil, nil, context.Cause(ctx))
	}
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	limit := cmp.Or(command.MaxOutput, defaultMaxOutput)
	exceeded := func() { cancel(errOutputLimit) }
	stdout := &limitedBuffer{left: limit, exceeded: exceeded}
	stderr := &limitedBuffer{left: limit, exceeded: exceeded}

	child, ours, err := r.start(command, nil)
	if err != nil {
		return Output{}, newError(command, nil, nil, err)
	}
	defer ours.close()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(stdout, ours[1]) })
		both.Go(func() { _, _ = io.Copy(stderr, ours[2]) })
		both.Wait()
	}()

	select {
	case <-child.done:
	case <-runCtx.Done():
		_ = signalGroup(child.pid, killSignal(command))
		if !endsWithin(child.done, cmp.Or(command.Grace, defaultGrace)) {
			_ = signalGroup(child.pid, syscall.SIGKILL)
			<-child.done
		}
	}
	if !endsWithin(copied, cmp.Or(command.Grace, defaultGrace)) {
		ours.close() // a process that has left the group keeps them open
		<-copied
	}
	output := Output{stdout.kept.Bytes(), stderr.kept.Bytes(), child.cpu}
	err = child.ending()
	if cause := context.Cause(runCtx); cause != nil {
		err = cause
	}
	if err != nil {
		return output, newError(command, &child.status, output.Stderr, err)
	}
	return output, nil
}

// pipes are this process's ends of a program's stdin, stdout and stderr; nil: there is none.
type pipes [3]*os.File

func (p pipes) close() {
	for _, f := range p {
		if f != nil {
			f.Close()
		}
	}
}

// start starts a command. It returns this process's ends of the pipes. Stdin makes the pipe of that
// name; nil: stdin is empty.
func (r *Runner) start(
	command Command, stdin func() (theirs, our *os.File, err error),
) (_ *child, ours pipes, err error) {
	var theirs pipes
	defer func() {
		theirs.close()
		if err != nil {
			ours.close()
		}
	}()
	if stdin == nil {
		stdin = func() (*os.File, *os.File, error) {
			null, err := os.Open(os.DevNull)
			return null, nil, err
		}
	}
	if theirs[0], ours[0], err = stdin(); err != nil {
		return nil, ours, err
	}
	for i := 1; i < len(ours); i++ {
		if ours[i], theirs[i], err = os.Pipe(); err != nil {
			return nil, ours, err
		}
	}
	path, err := exec.LookPath(command.Program)
	if err != nil {
		return nil, ours, err
	}
	s := start{
		Path:    path,
		Args:    append([]string{command.Program}, command.Args...),
		Env:     lastValues(command.Env),
		Dir:     cmp.Or(command.Dir, "/"),
		Kill:    killSignal(command),
		GiveWay: command.GiveWay,
		Confine: command.Confine,
		Alone:   command.Confine != nil && command.Confine.Loopback != nil,
	}
	begin := r.host.begin
	if command.Confine != nil && r.launcher != nil {
		begin = r.launcher.begin
	}
	started, err := begin(s, theirs)
	if err != nil {
		return nil, ours, err
	}
	r.started.Add(1)
	if s.Alone {
		command.Confine.Loopback(started.listener)
	}
	return started, ours, nil
}

func endsWithin(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func killSignal(command Command) syscall.Signal { return cmp.Or(command.Kill, syscall.SIGKILL) }

// limitedBuffer keeps what is written to it up to a limit, and calls exceeded if there is more. It
// drops the rest, so that the program can end in its own way.
type limitedBuffer struct {
	kept     bytes.Buffer // not embedded: its ReadFrom would go around the limit
	left     int64
	exceeded func()
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		b.exceeded()
		b.kept.Write(p[:b.left])
		b.left = 0
		return len(p), nil
	}
	b.left -= int64(len(p))
	return b.kept.Write(p)
}

// lastValues removes all but the last value of each variable: programs take the first.
func lastValues(env []string) []string {
	last := make(map[string]int, len(env))
	for i, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		last[name] = i
	}
	kept := make([]string, 0, len(last))
	for i, variable := range env {
		if name, _, _ := strings.Cut(variable, "="); last[name] == i {
			kept = append(kept, variable)
		}
	}
	return kept
}
