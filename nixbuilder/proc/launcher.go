package proc

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process that is not root makes namespaces inside a user namespace of its own. To do so it has
// to map itself into that namespace, which for a protected process (see Protect) the kernel lets
// only root do. So another process, which has no secrets, starts confined programs for it: the
// launcher.
//
// The launcher is this program, started twice in a row. The first process is not protected, as it
// has just begun. It maps the second one, which is in the user namespace and may do there what root
// does on a host. The launcher ends when the other end of its socket is closed, and all that it has
// started ends with it.

// launcherName is the name by which this program is called to be the launcher.
const launcherName = "registry-launcher"

// launcherSocket is the launcher's end of its socket.
const launcherSocket = 3

// helloTime is how long the launcher may take to say hello.
const helloTime = 30 * time.Second

// A hello is the launcher's first message: what it may do.
type hello struct {
	Fault    string // why there is none
	Warnings []string
	Alone    bool
}

// An answer is the launcher's message about a program. The first says that it has begun, the second
// that it has ended.
type answer struct {
	Fault  string // why it has not begun, or could not be waited for
	PID    int
	Status syscall.WaitStatus
	CPU    time.Duration
}

// init makes this process the launcher if it was started for that. It has to run before main, in
// every program that imports this package.
func init() {
	if len(os.Args) == 2 && os.Args[0] == launcherName {
		os.Exit(beLauncher(os.Args[1]))
	}
}

const (
	outside = "outside" // of the user namespace
	inside  = "inside"
)

func beLauncher(place string) int {
	file := os.NewFile(launcherSocket, "launcher")
	socket, err := unixConn(file)
	if err != nil {
		return 1
	}
	answers := gob.NewEncoder(writer{socket, nil})
	if place == outside {
		if err := startLauncher(file, inside, &syscall.SysProcAttr{
			Setpgid:     true, // the terminal's signals are not for it
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		}); err != nil {
			_ = answers.Encode(hello{Fault: err.Error()})
			return 1
		}
		return 0
	}
	file.Close()
	var h host
	warnings := h.isolate()
	if errors.Join(Protect(), answers.Encode(hello{Warnings: warnings, Alone: h.alone})) != nil {
		return 1
	}
	for {
		var files []*os.File
		n, err := receive(socket, make([]byte, 1), &files)
		if err != nil || n == 0 {
			return 0
		}
		if len(files) == 4 {
			go h.serve(files[0], [3]*os.File(files[1:]))
		}
	}
}

// serve starts a program for the other end of a connection, and reports its end.
func (h *host) serve(connection *os.File, files [3]*os.File) {
	conn, err := unixConn(connection)
	connection.Close()
	if err != nil {
		pipes(files).close()
		return
	}
	defer conn.Close()
	var passed []*os.File
	answers := gob.NewEncoder(writer{conn, &passed})
	var s start
	err = gob.NewDecoder(conn).Decode(&s)
	var c *child
	if err == nil {
		c, err = h.begin(s, files)
	}
	pipes(files).close()
	if err != nil {
		_ = answers.Encode(answer{Fault: err.Error()})
		return
	}
	if c.listener != nil {
		if file, err := c.listener.(*net.TCPListener).File(); err == nil {
			passed = append(passed, file)
			defer file.Close()
		}
		c.listener.Close()
	}
	_ = answers.Encode(answer{PID: c.pid})
	<-c.done
	last := answer{Status: c.status, CPU: c.cpu}
	if c.err != nil {
		last.Fault = c.err.Error()
	}
	_ = answers.Encode(last)
}

// startLauncher starts this program as the launcher. It waits for the first process, which only
// starts the second.
func startLauncher(socket *os.File, place string, attributes *syscall.SysProcAttr) error {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{launcherName, place}, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Sys: attributes, Files: []uintptr{0, 1, 2, launcherSocket: socket.Fd()},
	})
	if err != nil || place == inside {
		return err
	}
	c := child{pid: pid}
	c.wait()
	return c.ending()
}

// A launcher starts confined programs. It is safe for concurrent use.
type launcher struct {
	mu     sync.Mutex
	socket *net.UnixConn // nil: it has to be started
}

// errGone means that the launcher has ended, and with it the program that it was about to start.
var errGone = errors.New("the launcher has ended")

// launch starts a launcher.
func launch() (*launcher, hello, error) {
	l := new(launcher)
	said, err := l.open()
	return l, said, err
}

func (l *launcher) open() (said hello, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return said, fmt.Errorf("starting the launcher: %w", err)
	}
	startErr := startLauncher(theirs, outside, &syscall.SysProcAttr{Setpgid: true})
	theirs.Close()
	if err = ours.SetReadDeadline(time.Now().Add(helloTime)); err == nil {
		if err = gob.NewDecoder(ours).Decode(&said); err == nil {
			err = ours.SetReadDeadline(time.Time{})
		}
	}
	switch {
	case said.Fault != "":
		err = errors.New(said.Fault)
	case startErr != nil:
		err = startErr
	}
	if err != nil {
		ours.Close()
		return said, fmt.Errorf("starting the launcher: %w", err)
	}
	l.socket = ours
	return said, nil
}

// begin does what host.begin does, in the launcher. If the launcher has ended, it starts another.
func (l *launcher) begin(s start, files [3]*os.File) (*child, error) {
	for again := false; ; again = true {
		l.mu.Lock()
		if l.socket == nil {
			if _, err := l.open(); err != nil {
				l.mu.Unlock()
				return nil, err
			}
		}
		socket := l.socket
		l.mu.Unlock()
		c, err := ask(socket, s, files)
		if again || !errors.Is(err, errGone) {
			return c, err
		}
		l.mu.Lock()
		if l.socket == socket {
			socket.Close()
			l.socket = nil
		}
		l.mu.Unlock()
	}
}

// ask makes the launcher start a program, over a connection of its own.
func ask(socket *net.UnixConn, s start, files [3]*os.File) (*child, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("asking the launcher: %w", err)
	}
	err = send(socket, []byte{0}, theirs, files[0], files[1], files[2])
	theirs.Close()
	if err == nil {
		err = gob.NewEncoder(conn).Encode(s)
	}
	var passed []*os.File
	answers := gob.NewDecoder(reader{conn, &passed})
	var first answer
	if err == nil {
		err = answers.Decode(&first)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", errGone, err)
	case first.Fault != "":
		err = errors.New(first.Fault)
	}
	c := &child{pid: first.PID, done: make(chan struct{})}
	if err == nil && s.Alone {
		c.listener, err = listenerOf(passed)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	go func() {
		defer close(c.done)
		defer conn.Close()
		var last answer
		switch err := answers.Decode(&last); {
		case err != nil:
			c.err = fmt.Errorf("%w: %w", errGone, err)
		case last.Fault != "":
			c.err = errors.New(last.Fault)
		}
		c.status, c.cpu = last.Status, last.CPU
	}()
	return c, nil
}

func listenerOf(passed []*os.File) (net.Listener, error) {
	if len(passed) != 1 {
		return nil, errors.New("asking the launcher: a listener is missing")
	}
	defer passed[0].Close()
	return net.FileListener(passed[0])
}

// socketPair makes a connection: this process's end, and the end for another process.
func socketPair() (*net.UnixConn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "launcher")
	mine := os.NewFile(uintptr(pair[0]), "launcher")
	defer mine.Close()
	ours, err := unixConn(mine)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// unixConn makes a connection of a file that is a socket. The caller still closes the file.
func unixConn(file *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// send sends bytes, with files.
func send(conn *net.UnixConn, text []byte, files ...*os.File) error {
	var rights []byte
	if len(files) > 0 {
		numbers := make([]int, len(files))
		for i, file := range files {
			numbers[i] = int(file.Fd())
		}
		rights = unix.UnixRights(numbers...)
	}
	n, _, err := conn.WriteMsgUnix(text, rights, nil)
	if err == nil && n < len(text) {
		_, err = conn.Write(text[n:])
	}
	return err
}

// receive reads bytes, and adds the files that come with them to files.
func receive(conn *net.UnixConn, text []byte, files *[]*os.File) (int, error) {
	rights := make([]byte, unix.CmsgSpace(4*4))
	n, rightsLen, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return max(n, 0), err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	if err != nil {
		return n, err
	}
	for _, message := range messages {
		numbers, err := unix.ParseUnixRights(&message)
		if err != nil {
			return n, err
		}
		for _, number := range numbers {
			*files = append(*files, os.NewFile(uintptr(number), "passed"))
		}
	}
	return n, nil
}

// A reader reads a connection and collects the files that come with what it reads.
type reader struct {
	conn  *net.UnixConn
	files *[]*os.File
}

func (r reader) Read(p []byte) (int, error) {
	n, err := receive(r.conn, p, r.files)
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

// A writer writes to a connection. Its files, if it has any, go with the first write.
type writer struct {
	conn  *net.UnixConn
	files *[]*os.File
}

func (w writer) Write(p []byte) (int, error) {
	if w.files == nil || len(*w.files) == 0 {
		return w.conn.Write(p)
	}
	files := *w.files
	*w.files = nil
	if err := send(w.conn, p, files...); err != nil {
		return 0, err
	}
	return len(p), nil
}
