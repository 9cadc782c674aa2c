package proc

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
)

// stderrTail is how much of a failed program's stderr an Error keeps, in bytes.
const stderrTail = 4 << 10

var errOutputLimit = errors.New("too much output")

// exitError means that a program has not ended well.
type exitError syscall.WaitStatus

func (e exitError) Error() string {
	status := syscall.WaitStatus(e)
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// An Error means that a program could not be started or did not end well. It unwraps to the cause,
// which is the context's error if that ended the program.
type Error struct {
	Program string
	// Args have names in place of those in Command.ArgNames. Neither they nor Stderr have the users
	// and passwords of URLs: see Redact.
	Args []string
	// Exit is the program's exit status, -1 if it did not start or a signal ended it.
	Exit int
	// Signal is the signal that ended the program, zero if none did.
	Signal syscall.Signal
	// CPULimit says that the kernel has ended a program that has a limit on processor time. The
	// kernel has one other reason to do that: a host without memory.
	CPULimit bool
	// OutputLimit says that the program was ended because it wrote more than it may.
	OutputLimit bool
	// Stderr is the end of what the program wrote there, 4 KiB at most.
	Stderr string

	cause error
}

func (e *Error) Error() string {
	message := fmt.Sprintf("running %s %q: %v", e.Program, e.Args, e.cause)
	if e.CPULimit {
		message += ": out of processor time"
	}
	if stderr := strings.TrimSpace(e.Stderr); stderr != "" {
		message += ": " + stderr
	}
	return message
}

func (e *Error) Unwrap() error { return e.cause }

func newError(command Command, status *syscall.WaitStatus, stderr []byte, cause error) *Error {
	e := &Error{
		Program:     command.Program,
		Exit:        -1,
		OutputLimit: errors.Is(cause, errOutputLimit),
		Stderr:      Redact(string(stderr[max(0, len(stderr)-stderrTail):])),
		cause:       cause,
	}
	for _, arg := range command.Args {
		if name, ok := command.ArgNames[arg]; ok {
			arg = name
		}
		e.Args = append(e.Args, Redact(arg))
	}
	if status == nil {
		return e
	}
	if status.Signaled() {
		e.Signal = status.Signal()
	} else {
		e.Exit = status.ExitStatus()
	}
	if c := command.Confine; c != nil && c.CPU > 0 && e.Signal == syscall.SIGKILL {
		// The time that was used does not tell: by the kernel's own account, which decides, it may
		// be twice as much on a busy host.
		var exit exitError
		e.CPULimit = errors.As(cause, &exit) // else it was this process that ended it, for another cause
	}
	return e
}

// userinfo matches user and password before the host of a URL. That of ssh is no secret unless it
// has a password.
var userinfo = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)([^\s/?#"'<>]*)@`)

// Redact replaces users and passwords of the URLs in a text, so that it can be logged.
func Redact(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	return userinfo.ReplaceAllStringFunc(text, func(found string) string {
		scheme, user, _ := strings.Cut(found, "://")
		if strings.HasPrefix(strings.ToLower(scheme), "ssh") && !strings.Contains(user, ":") {
			return found
		}
		return scheme + "://xxxxx@"
	})
}
