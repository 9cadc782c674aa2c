package daemon

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// endGrace is how long the daemon may take to end by itself after its last request.
const endGrace = 2 * time.Second

// requestBuffer is how many bytes of requests are written before their answers are read. It is the
// smallest size of a pipe: as no answer is under way, the daemon need not read for that much to be
// written, so neither side can wait for the other.
const requestBuffer = 4 << 10

// How long a daemon may say nothing while it is asked something.
const (
	// idleSilence is for a question whether it still answers.
	idleSilence = 10 * time.Second
	// storeSilence is for questions about the store.
	storeSilence = time.Minute
	// cacheSilence is for questions to binary caches, each of which may take a minute to fail.
	cacheSilence = 10 * time.Minute
	// collectSilence is for a collection, which tells of each path. Those who add a temporary root
	// meanwhile wait for it, and give up after storeSilence.
	collectSilence = 45 * time.Second
	// defaultSilence is for builds, whose builders may be silent.
	defaultSilence = time.Hour
)

// ErrSilent means that the daemon lives and says nothing: it was stopped, or waits for a lock or a
// file system that hangs. The Conn is broken.
var ErrSilent = errors.New("the Nix daemon does not answer")

// ErrGone means that the daemon ended in the middle of an operation for a reason of its own: it
// crashed, was killed, or is being restarted. Another Conn may succeed.
var ErrGone = errors.New("the Nix daemon has ended")

// Options say how to start a daemon.
type Options struct {
	// Program is the file name of nix-daemon, or its name in PATH; empty: nix-daemon.
	Program string
	// Store is Nix's address of the store; empty: the host's own. Its paths must begin with
	// /nix/store.
	Store string
	// Settings override nix.conf, by the names used there. A system's daemon takes only some of
	// them from users that it does not trust. Nix's clients never read these from nix.conf, and
	// neither does this package; unless they are set, Nix's defaults hold: cores, fallback,
	// keep-failed, keep-going, max-jobs, max-silent-time, substitute.
	Settings map[string]string
	// Env is the daemon's whole environment, as KEY=value. Nix needs HOME; the programs of builders
	// and of substituters need PATH.
	Env []string
	// Silence is how long a daemon that builds or downloads may say nothing; zero: 1 h. It says when
	// a build or a download begins and ends, and passes on what builders write.
	Silence time.Duration
}

// An Error is the daemon's report that it cannot do something. It does not break the Conn.
type Error struct {
	// Message has no colours or other control characters. It may have paths of the host.
	Message string
}

func (e *Error) Error() string { return "nix: " + e.Message }

// Conn is a conversation with one daemon process. It does one operation at a time. It is not safe
// for concurrent use, except for Close.
//
// If a context ends in the middle of an operation, so do the process and the builders that it
// started, since the protocol cannot take a request back. That breaks the Conn, and so does
// anything unexpected from the process. A broken Conn can only be closed.
type Conn struct {
	peer       peer
	r          reader
	w          writer
	silence    time.Duration // of builds
	heard      func()        // the daemon has said something
	nixVersion string
	settings   map[string]string
	warnings   []string
	tempRoots  int
	retired    bool
	era        int // of its Pool, when it was opened or last idle
	generation int // of the Pool's options
	err        error
}

// peer is the process at the other end, a *proc.Process.
type peer interface {
	io.ReadWriter
	Stop(wait time.Duration)
	Err() error
}

// Open starts a daemon and agrees with it on protocol and settings. The context limits the opening,
// not the life of the Conn. It fails if the program is older than Nix 2.8.
func Open(ctx context.Context, runner *proc.Runner, o Options) (*Conn, error) {
	args := []string{"--stdio"}
	if o.Store != "" {
		args = append(args, "--option", "store", o.Store)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		// SetOptions does not reach what concerns downloads (connect-timeout); the command line
		// does not reach the system's daemon. So settings go both ways.
		args = append(args, "--option", name, o.Settings[name])
	}
	program := o.Program
	if program == "" {
		program = "nix-daemon"
	}
	process, err := runner.Start(proc.Command{Program: program, Args: args, Env: o.Env, Kill: syscall.SIGTERM})
	if err != nil {
		return nil, fmt.Errorf("opening a connection to Nix: %w", err)
	}
	return converse(ctx, process, o)
}

// converse begins a conversation with a process that has just started. If that fails, it ends the
// process.
func converse(ctx context.Context, p peer, o Options) (*Conn, error) {
	c := &Conn{
		peer:     p,
		w:        writer{bufio.NewWriterSize(p, requestBuffer)},
		silence:  cmp.Or(o.Silence, defaultSilence),
		heard:    func() {},
		settings: o.Settings,
	}
	c.r = reader{r: bufio.NewReaderSize(hearing{c}, 64<<10)}
	err := c.do(ctx, "opening a connection to Nix", storeSilence, func() error {
		if err := c.greet(); err != nil {
			return err
		}
		return c.setOptions(o.Settings, func(l LogLine) { c.warnings = append(c.warnings, l.Text) })
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// NixVersion is what the daemon calls itself, such as 2.8.0.
func (c *Conn) NixVersion() string { return c.nixVersion }

// Warnings are the daemon's own about the settings, one line each: which it does not take or
// understand.
func (c *Conn) Warnings() []string { return slices.Clone(c.warnings) }

// TempRoots is how many temporary roots were added so far. The daemon keeps them all until the Conn
// is closed.
func (c *Conn) TempRoots() int { return c.tempRoots }

// Err is why the Conn is broken, nil while it can be used.
func (c *Conn) Err() error { return c.err }

// Retire has a Pool end the Conn when it is put back.
func (c *Conn) Retire() { c.retired = true }

// Close ends the process and returns when it has ended. Temporary roots end with it.
func (c *Conn) Close() { c.peer.Stop(endGrace) }

// hearing reads what the daemon says, and tells of it.
type hearing struct{ c *Conn }

func (h hearing) Read(p []byte) (int, error) {
	n, err := h.c.peer.Read(p)
	h.c.heard()
	return n, err
}

// do runs one operation: it writes requests and reads answers. Any error but the daemon's own
// breaks the Conn, because nobody knows what would be read next. So does a daemon that says nothing
// for as long as silence.
func (c *Conn) do(ctx context.Context, doing string, silence time.Duration, operation func() error) error {
	if c.err != nil {
		return c.err
	}
	if err := ctx.Err(); err != nil {
		return wrap(doing, err)
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	watch := time.AfterFunc(silence, func() { giveUp(fmt.Errorf("%w for %v", ErrSilent, silence)) })
	defer watch.Stop()
	c.heard = func() { watch.Reset(silence) }
	finish := context.AfterFunc(ctx, func() { c.peer.Stop(0) })
	err := operation()
	if finish() {
		var reported *Error
		if err == nil || errors.As(err, &reported) {
			return wrap(doing, err)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) {
			err = fmt.Errorf("%w: %w", ErrGone, err)
		}
		c.peer.Stop(endGrace)
		if ended := c.peer.Err(); ended != nil {
			err = fmt.Errorf("%w: %w", err, ended)
		}
		c.err = wrap(doing, err)
		return c.err
	}
	c.peer.Stop(0) // returns when the process has ended
	c.err = wrap(doing, ended(ctx))
	return c.err
}

// ended is why a context has ended: ErrSilent, or what its own error says.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrSilent) {
		return cause
	}
	return ctx.Err()
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
