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

// When this process is root, confined programs run as one of two users, with the group of the same
// number. On the host these own no file: the first is everybody's nobody, the second a number that
// Debian reserves. The first is also in the group of the second, so a directory can be opened to
// both.
const (
	nobody  = 65534
	another = 65533
)

// A Runner starts programs and counts them. It is safe for concurrent use.
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
	// Kill is the signal that ends the program's process group: when its context ends, when it is
	// stopped, or when this process dies; zero: SIGKILL. Programs that must clean up, such as Nix
	// while it builds, need SIGTERM. SIGKILL follows after Grace.
	Kill syscall.Signal
	// Grace is the time between Kill and SIGKILL; zero: 5 seconds.
	Grace time.Duration
	// MaxOutput limits stdout and stderr, each, in bytes; zero: 16 MiB. A program that writes more
	// is ended. Only Run looks at it.
	MaxOutput int64
	// GiveWay makes it give way to all other work on the processors, as confined programs do.
	GiveWay bool
	// Confine is set for untrusted work.
	Confine *Confinement
}

// Confinement limits untrusted work. Such work also runs as an unprivileged user, and in process
// and IPC namespaces of its own, if the host permits that, and can never gain privileges. It gives
// way to all other work on the processors.
type Confinement struct {
	// Memory is the address space of each process, in bytes; zero: no limit.
	Memory int64
	// CPU is the processor time of each process, rounded up to seconds; zero: no limit. SIGKILL
	// ends a process that exceeds it.
	CPU time.Duration
	// Apart runs it as a second unprivileged user, if this process is root. Programs of the first
	// user can't touch its processes and files.
	Apart bool
	// Network lets it use the host's network. Otherwise it has none, not even loopback.
	Network bool
	// Loopback, if set, gives it a network of its own, in which there is only a listener at
	// LoopbackAddress. Loopback is called with the listener when the program has begun, and has to
	// close it. It needs a Runner with OwnNetworks.
	Loopback func(net.Listener)
}

// New finds out which parts of a confinement the host permits. Confined programs run without the
// others. Warnings has a line for each of these, for the caller to log.
func New() (r *Runner, warnings []string) {
	r = new(Runner)
	if uid := os.Geteuid(); uid != 0 {
		// Anyone may make the other namespaces inside a user namespace, where the host permits
		// that.
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

// isolate finds out which namespaces the host permits. It returns a line for each that the host
// does not.
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

// permitted reports why the host would not start a program with attr, nil if it would. It tries an
// empty file name: the kernel refuses that only after it has done all that attr asks for.
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

// ConfinedUser is the user and the group of confined programs, apart or not. Programs need the
// right to read their input and to write their output.
func (r *Runner) ConfinedUser(apart bool) (uid, gid int) {
	if c := r.host.credential(apart); c != nil {
		return int(c.Uid), int(c.Gid)
	}
	return os.Geteuid(), os.Getegid()
}

// Enclose keeps other users of this machine out of a directory, whatever the modes below it. Only
// its owner and the users of confined programs can pass it. It makes the directory if need be.
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

// Find returns the file of a Program. A name with a slash is a file itself; another is looked up in
// this process's PATH.
func Find(program string) (string, error) { return exec.LookPath(program) }
