package proc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

// Confined programs run as one of two users, with the group of the same number, when this process
// is root. On the host they own no file: the first is everybody's nobody, the second a number that
// Debian reserves. The first is in the group of the second, too, so that directories can be opened
// to both.
const (
	nobody  = 65534
	another = 65533
)

// Runner starts programs and counts them. It is safe for concurrent use.
type Runner struct {
	started  atomic.Int64
	host     host
	launcher *launcher // which starts confined programs; nil: this process does
	alone    bool
}

// A Command is a program with everything that it is given.
type Command struct {
	// Program is a file name or a name to be looked up in this process's PATH.
	Program string
	Args    []string
	// ArgNames are what an Error calls arguments, such as expressions that are too long to show.
	ArgNames map[string]string
	// Env is the whole environment, as KEY=value. Nothing is inherited, and of several values the
	// last one holds.
	Env []string
	// Dir is the working directory; empty: the root directory.
	Dir string
	// Kill is the signal that the program's process group gets when its context ends, when it is to
	// stop, or when this process dies; zero: SIGKILL. Programs that must clean up, such as Nix
	// while it builds, want SIGTERM. SIGKILL follows after Grace.
	Kill syscall.Signal
	// Grace is the time between Kill and SIGKILL; zero: 5 seconds.
	Grace time.Duration
	// MaxOutput limits stdout and stderr, each, in bytes; zero: 16 MiB. A program that writes more
	// is ended. Only Run looks at it.
	MaxOutput int64
	// Confine is set for untrusted work.
	Confine *Confinement
}

// Confinement says what untrusted work may use. It also runs as an unprivileged user and in process
// and IPC namespaces of its own, where the host permits that, and can never gain privileges.
type Confinement struct {
	// Memory is the address space that each process may have, in bytes; zero: no limit.
	Memory int64
	// CPU is the processor time that each process may use, rounded up to seconds; zero: no limit.
	// SIGKILL ends one that exceeds it.
	CPU time.Duration
	// Apart runs it as a second unprivileged user, where this process is root: what others run as
	// the first has no hold on its processes and files.
	Apart bool
	// Network leaves it the host's network. Without it there is none, not even loopback.
	Network bool
	// Loopback, if set, gives it a network of its own instead, in which there is nothing but one
	// listener at LoopbackAddress. Loopback gets that when the program has begun, and has to close
	// it. It takes a Runner with OwnNetworks.
	Loopback func(net.Listener)
}

// New finds out which parts of a confinement the host permits. Confined programs run without the
// others, each of which is one line of warnings, for the caller to log.
func New() (r *Runner, warnings []string) {
	r = new(Runner)
	if uid := os.Geteuid(); uid != 0 {
		// Anyone may make the other namespaces inside a user namespace of his own, where that is
		// permitted.
		launcher, hello, err := launch()
		if err != nil {
			return r, []string{fmt.Sprintf("no user namespace, and so no isolation, for untrusted work: %v", err)}
		}
		r.launcher, r.alone = launcher, hello.Alone
		return r, hello.Warnings
	}
	r.host.confine.Credential = &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{another}}
	if err := permitted(r.host.confine); err != nil {
		warnings = append(warnings, fmt.Sprintf("no unprivileged user for untrusted work: %v", err))
		r.host.confine.Credential = nil
	}
	r.host.apart = &syscall.Credential{Uid: another, Gid: another}
	if err := permitted(syscall.SysProcAttr{Credential: r.host.apart}); err != nil {
		warnings = append(warnings, fmt.Sprintf("no second unprivileged user for untrusted work: %v", err))
		r.host.apart = r.host.confine.Credential
	}
	warnings = append(warnings, r.host.isolate()...)
	r.alone = r.host.alone
	return r, warnings
}

// isolate finds out which namespaces the host permits, and returns a line for each that it does
// not.
func (h *host) isolate() (warnings []string) {
	for _, part := range []struct {
		name string
		flag uintptr
	}{
		{"process namespace", syscall.CLONE_NEWPID},
		{"IPC namespace", syscall.CLONE_NEWIPC},
		{"network isolation", syscall.CLONE_NEWNET},
	} {
		with := h.confine
		with.Cloneflags |= part.flag
		switch err := permitted(with); {
		case err != nil:
			warnings = append(warnings, fmt.Sprintf("no %s for untrusted work: %v", part.name, err))
		case part.flag == syscall.CLONE_NEWNET:
			h.noNetwork = part.flag
		default:
			h.confine = with
		}
	}
	if h.noNetwork == 0 {
		return warnings
	}
	tried := make(chan error)
	onThreadOfItsOwn(func() {
		listener, err := newNetwork()
		if err == nil {
			listener.Close()
		}
		tried <- err
	})
	if err := <-tried; err != nil {
		return append(warnings, fmt.Sprintf("no network of its own for untrusted work that fetches: %v", err))
	}
	h.alone = true
	return warnings
}

// permitted reports why the host would not start a program with attr, nil if it would. It tries
// that with an empty file name: being refused that name is the last thing that happens to a new
// process, after all that attr asks for.
func permitted(attr syscall.SysProcAttr) error {
	_, err := syscall.ForkExec("", []string{""}, &syscall.ProcAttr{Sys: &attr})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// Started is how many programs have been started so far.
func (r *Runner) Started() int64 { return r.started.Load() }

// OwnNetworks tells whether the host permits Confinement.Loopback.
func (r *Runner) OwnNetworks() bool { return r.alone }

// ConfinedUser is the user and the group that confined programs run as, apart or not. They need the
// right to read what they are given and to write where they are told to.
func (r *Runner) ConfinedUser(apart bool) (uid, gid int) {
	if c := r.host.credential(apart); c != nil {
		return int(c.Uid), int(c.Gid)
	}
	return os.Geteuid(), os.Getegid()
}

// Enclose keeps other users of this machine out of a directory, whatever the modes below it: those
// that confined programs run as can pass it, and nobody else but its owner. It makes the directory
// if need be.
func (r *Runner) Enclose(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if r.host.credential(false) == nil && r.host.credential(true) == nil {
		return os.Chmod(dir, 0o700)
	}
	if err := os.Chown(dir, -1, another); err != nil {
		return err // closed, it would be to evaluations, too
	}
	return os.Chmod(dir, 0o710)
}

// Find tells which file a Program is: one that holds a slash is itself, another is looked up in
// this process's PATH.
func Find(program string) (string, error) { return exec.LookPath(program) }
