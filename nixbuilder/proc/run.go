package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultGrace     = 5 * time.Second
	defaultMaxOutput = 16 << 20
)

// Output is what a program wrote, complete only if it ended well.
type Output struct {
	Stdout, Stderr []byte
	// CPU is the processor time that it used, with that of its children.
	CPU time.Duration
}

// Run runs a program to its end, with nothing on stdin. It fails with an *Error unless the program exits with status 0; what
// was written until then is returned in any case. When ctx ends, so does the program.
func (r *Runner) Run(ctx context.Context, command Command) (Output, error) {
	if err := ctx.Err(); err != nil {
		return Output{}, newError(command, nil, nil, context.Cause(ctx))
	}
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	limit := orDefault(command.MaxOutput, defaultMaxOutput)
	exceeded := func() { cancel(errOutputLimit) }
	stdout := &limitedBuffer{left: limit, exceeded: exceeded}
	stderr := &limitedBuffer{left: limit, exceeded: exceeded}

	c := exec.CommandContext(runCtx, command.Program, command.Args...)
	c.Stdout, c.Stderr = stdout, stderr
	c.Cancel = func() error { return signalGroup(c.Process.Pid, killSignal(command)) }
	c.WaitDelay = orDefault(command.Grace, defaultGrace)
	ended, err := r.start(c, command)
	if err != nil {
		return Output{}, newError(command, nil, nil, err)
	}

	err = <-ended
	output := Output{stdout.kept.Bytes(), stderr.kept.Bytes(), c.ProcessState.UserTime() + c.ProcessState.SystemTime()}
	if cause := context.Cause(runCtx); cause != nil {
		err = cause
	}
	if err != nil {
		return output, newError(command, c.ProcessState, output.Stderr, err)
	}
	return output, nil
}

// start starts c as command asks and waits for it in the background: ended gets what Wait returns, once.
//
// A goroutine that keeps its thread until the program has ended does both. Linux tells a program that its parent has died when the *thread* that
// started it ends. And a promise never to gain privileges belongs to a thread, too: this one is not used again.
func (r *Runner) start(c *exec.Cmd, command Command) (ended <-chan error, err error) {
	c.Dir = command.Dir
	if c.Dir == "" {
		c.Dir = "/"
	}
	c.Env = append([]string{}, command.Env...) // not nil, which would inherit
	c.SysProcAttr = r.attributes(command)

	started, end := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if command.Confine != nil {
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				started <- fmt.Errorf("giving up new privileges: %w", err)
				return
			}
		}
		if err := c.Start(); err != nil {
			started <- err
			return
		}
		r.started.Add(1)
		limitErr := r.limit(c.Process.Pid, command.Confine)
		if limitErr != nil {
			_ = signalGroup(c.Process.Pid, syscall.SIGKILL)
		}
		started <- nil
		err := c.Wait()
		// What the program has left behind in its group must not outlive it.
		_ = signalGroup(c.Process.Pid, syscall.SIGKILL)
		if limitErr != nil {
			err = limitErr
		}
		end <- err
	}()
	return end, <-started
}

// attributes are what command asks of the kernel for a new process.
func (r *Runner) attributes(command Command) *syscall.SysProcAttr {
	var attr syscall.SysProcAttr
	if command.Confine != nil {
		attr = r.confine
		attr.Credential = r.credential(command.Confine.Apart)
		if !command.Confine.Network {
			attr.Cloneflags |= r.noNetwork
		}
	}
	attr.Setpgid = true
	attr.Pdeathsig = killSignal(command)
	return &attr
}

// limit sets the limits of a program that has just begun. It must be called on a thread that is not used for anything else.
//
// A process may limit others of its own real user; root may do so only where it has kept CAP_SYS_RESOURCE, which containers
// take away. So this thread is that user for a moment, in name only: its effective user stays.
func (r *Runner) limit(pid int, confine *Confinement) (err error) {
	if confine == nil {
		return nil
	}
	if c := r.credential(confine.Apart); c != nil {
		if err := setRealUser(int(c.Uid), int(c.Gid)); err != nil {
			return fmt.Errorf("limiting: %w", err)
		}
		defer func() { err = errors.Join(err, setRealUser(0, 0)) }()
	}
	limits := map[int]uint64{unix.RLIMIT_CORE: 0}
	if confine.Memory > 0 {
		limits[unix.RLIMIT_AS] = uint64(confine.Memory)
	}
	if confine.CPU > 0 {
		limits[unix.RLIMIT_CPU] = uint64((confine.CPU + time.Second - 1) / time.Second)
	}
	for resource, value := range limits {
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: value, Max: value}, nil); err != nil {
			return fmt.Errorf("limiting: %w", err)
		}
	}
	return nil
}

// setRealUser changes the real user and group of this thread alone; the calls of package syscall change all threads.
func setRealUser(uid, gid int) error {
	const keep = ^uintptr(0)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(gid), keep, keep); errno != 0 {
		return fmt.Errorf("changing the real group: %w", errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), keep, keep); errno != 0 {
		return fmt.Errorf("changing the real user: %w", errno)
	}
	return nil
}

func killSignal(command Command) syscall.Signal { return orDefault(command.Kill, syscall.SIGKILL) }

// signalGroup sends a signal to the process group that pid leads. A group that has ended already is no error.
func signalGroup(pid int, signal syscall.Signal) error {
	if err := syscall.Kill(-pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// limitedBuffer keeps what is written to it up to a limit and says once that there was more. The rest is read and dropped, so that
// the program can end in its own way.
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

func orDefault[T comparable](value, preset T) T {
	var zero T
	if value == zero {
		return preset
	}
	return value
}
