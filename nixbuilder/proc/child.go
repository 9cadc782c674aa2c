package proc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A start describes a program that is to be started. It goes to the launcher as gob.
type start struct {
	Path    string
	Args    []string // with the program's name first
	Env     []string
	Dir     string
	Kill    syscall.Signal
	GiveWay bool
	Confine *Confinement
	// Alone gives it a network of its own, with a listener.
	Alone bool
}

// A child is a program that was started.
type child struct {
	pid      int
	listener net.Listener // of the program's own network, if it has one
	done     chan struct{}
	// after done
	status syscall.WaitStatus
	cpu    time.Duration
	err    error // why it could not be waited for, or could not be limited and so was ended
}

// ending is the error with which the child has ended, nil if it has ended well.
func (c *child) ending() error {
	switch {
	case c.err != nil:
		return c.err
	case c.status != 0:
		return exitError(c.status)
	}
	return nil
}

// A host is what the kernel lets this process do for confined programs.
type host struct {
	confine   syscall.SysProcAttr // the user and namespaces of a confined program
	apart     *syscall.Credential // the other user; nil: there is none
	noNetwork uintptr             // the namespace that takes the network away; zero: not permitted here
	alone     bool                // whether a program can have a network of its own with a listener
}

// begin starts a program, with files as its stdin, stdout and stderr, and waits for its end in the
// background.
//
// One thread does all of this, and lasts until the program has ended: Linux tells a program that
// its parent has died when the *thread* that started it ends. The promise never to gain privileges,
// and the network, belong to the thread as well, so it is used for nothing else.
func (h *host) begin(s start, files [3]*os.File) (*child, error) {
	attributes := h.attributes(s)
	c := &child{done: make(chan struct{})}
	started := make(chan error, 1)
	onThreadOfItsOwn(func() {
		var err error
		if s.Confine != nil {
			err = confineThread()
		}
		if s.GiveWay || s.Confine != nil {
			err = errors.Join(err, giveWay())
		}
		if err != nil {
			started <- err
			return
		}
		if s.Alone {
			if c.listener, err = newNetwork(); err != nil {
				started <- err
				return
			}
		}
		c.pid, err = syscall.ForkExec(s.Path, s.Args, &syscall.ProcAttr{
			Dir: s.Dir, Env: s.Env, Sys: attributes, Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()},
		})
		runtime.KeepAlive(files)
		if err != nil {
			if c.listener != nil {
				c.listener.Close()
			}
			started <- err
			return
		}
		limitErr := h.limit(c.pid, s.Confine) // at once: it runs already
		endFirst(c.pid)
		if limitErr != nil {
			_ = signalGroup(c.pid, syscall.SIGKILL)
		}
		started <- nil
		c.wait()
		// What the program has left behind in its group must not outlive it.
		_ = signalGroup(c.pid, syscall.SIGKILL)
		if limitErr != nil {
			c.err = limitErr
		}
		close(c.done)
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting it: %w", err)
	}
	return c, nil
}

// confinedNice is how far confined programs give way on the processors: beside pulls of stored
// images, each gets a tenth of what it would get. Less would keep an evaluation waiting for minutes
// while images are packed.
const confinedNice = 10

// giveWay makes programs that this thread starts give way to others.
func giveWay() error {
	const none = 20 // what the system call answers for a niceness of zero
	priority, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, max(confinedNice, none-priority))
	}
	if err != nil {
		return fmt.Errorf("giving way on the processors: %w", err)
	}
	return nil
}

// confineThread makes programs that this thread starts, as another user than root, give up all
// capabilities and the ways to gain some.
func confineThread() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up new privileges: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var capabilities [2]unix.CapUserData
	if err := unix.Capget(&header, &capabilities[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	capabilities[0].Inheritable, capabilities[1].Inheritable = 0, 0 // the launcher has some
	if err := unix.Capset(&header, &capabilities[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

func (c *child) wait() {
	var usage syscall.Rusage
	for {
		_, err := syscall.Wait4(c.pid, &c.status, 0, &usage)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			c.err = fmt.Errorf("waiting for it: %w", err)
		}
		break
	}
	c.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// onThreadOfItsOwn runs f in the background, on a thread that ends with it. That is never the
// process's first thread, which does not end.
func onThreadOfItsOwn(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		other := make(chan struct{})
		go func() { // on another thread, as the goroutine has locked this one
			defer close(other)
			runtime.LockOSThread()
			f()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
}

// attributes are the kernel's attributes of the new process.
func (h *host) attributes(s start) *syscall.SysProcAttr {
	var attr syscall.SysProcAttr
	if s.Confine != nil {
		attr = h.confine
		attr.Credential = h.credential(s.Confine.Apart)
		if !s.Confine.Network && !s.Alone {
			attr.Cloneflags |= h.noNetwork
		}
	}
	attr.Setpgid = true
	attr.Pdeathsig = s.Kill
	return &attr
}

// credential is the user of confined programs; nil: this process's own.
func (h *host) credential(apart bool) *syscall.Credential {
	if apart {
		return h.apart
	}
	return h.confine.Credential
}

// endFirst makes the kernel end a process before this one when memory runs out. If the host does
// not permit that, only the order is lost.
func endFirst(pid int) {
	const more = 500
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	if score, err := strconv.Atoi(strings.TrimSpace(string(own))); err == nil {
		higher := strconv.Itoa(min(score+more, 1000))
		_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(higher), 0)
	}
}

// maxFile is how large a file of a confined program may be, in bytes. Unpacking an archive takes as
// much.
const maxFile = 4 << 30

// limit sets the limits of a program that has just begun. It must be called on a thread that is
// used for nothing else.
//
// A process may limit others of its own real user. Root may limit all only with CAP_SYS_RESOURCE,
// which containers take away. So this thread becomes the program's user for a moment, in name only:
// its effective user stays.
func (h *host) limit(pid int, confine *Confinement) (err error) {
	if confine == nil {
		return nil
	}
	if c := h.credential(confine.Apart); c != nil {
		if err := setRealUser(int(c.Uid), int(c.Gid)); err != nil {
			return fmt.Errorf("limiting: %w", err)
		}
		defer func() { err = errors.Join(err, setRealUser(0, 0)) }()
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &own); err != nil {
		return fmt.Errorf("limiting: %w", err)
	}
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: min(maxFile, own.Max)}
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

// setRealUser changes the real user and group of this thread alone. The functions of package
// syscall would change all threads.
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

// signalGroup sends a signal to the process group that pid leads. It is no error if the group has
// ended.
func signalGroup(pid int, signal syscall.Signal) error {
	if err := syscall.Kill(-pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
