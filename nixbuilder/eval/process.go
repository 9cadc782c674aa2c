package eval

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/docker/go-units"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/egress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	prepareimage "github.com/nixery-registry/nixery-registry/prepare-image"
)

var (
	errNoAnswer  = errors.New("the evaluator does not answer")
	errSlowFetch = errors.New("what it fetches takes too long")
	errEnded     = errors.New("somebody has ended the evaluation")
	errStuck     = errors.New("the evaluation does not come to its end, and uses no processor")
)

// stuckFactor is how many times longer by the clock than its processor time an evaluation may take.
// One that takes longer was stopped, or waits for a file system that hangs.
const stuckFactor = 10

// maxOutput is how much an evaluation may write, in bytes. Most of it is the attributes that
// resemble unknown names.
const maxOutput = 64 << 20

// An ending tells how far a process came, and why it went no further.
type ending struct {
	begun   bool     // Nix has come as far as the package set
	set     string   // the type of the package set; empty: it fails before it is one
	config  bool     // the set takes an argument config
	reports []report // one for each name, in order, up to the culprit
	well    bool
	limit   bool   // it ran into one of its limits
	cpu     bool   // namely that of processor time
	slow    bool   // what it fetches took too long
	fetches bool   // it began to fetch something
	message string // Nix's error
}

// start does what run does, in one process.
func (s *session) start(ctx context.Context, names []string, rethrow bool) (*ending, error) {
	end, err := s.startOne(ctx, names, rethrow)
	outcome := outcomeOf(end, err)
	metrics.Evaluations.Inc(outcome)
	if outcome == metrics.EvaluationTime || outcome == metrics.EvaluationMemory {
		metrics.Killed.Inc(metrics.KilledEvaluation)
	}
	return end, err
}

// outcomeOf is how metrics call the end of a process.
func outcomeOf(end *ending, err error) string {
	switch {
	case errors.Is(err, errEnded) || errors.Is(err, context.Canceled):
		return metrics.EvaluationEnded
	case err != nil:
		return metrics.EvaluationFailed
	case end.cpu || end.slow:
		return metrics.EvaluationTime
	case end.limit:
		return metrics.EvaluationMemory
	case !end.well:
		return metrics.EvaluationFailed
	}
	return metrics.EvaluationOK
}

func (s *session) startOne(ctx context.Context, names []string, rethrow bool) (*ending, error) {
	nonce := rand.Text()
	command, err := s.command(names, nonce, rethrow)
	if err != nil {
		return nil, fmt.Errorf("evaluating %q: %w", names, err)
	}
	done, err := s.pace.Wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("evaluating %q: %w", names, err)
	}
	var output proc.Output
	defer func() { done(output.CPU) }()
	refused := func() string { return "" }
	if s.store.fetches {
		way, variables, err := s.wayOut(command.Confine)
		if err != nil {
			return nil, fmt.Errorf("evaluating %q: %w", names, err)
		}
		defer way.Close()
		command.Env, refused = append(command.Env, variables...), way.Refused
	}
	output, err = s.execute(ctx, command)
	s.cpu -= output.CPU
	var failure *proc.Error
	tooMuch := errors.Is(err, cachedir.ErrTooMuch)
	if err != nil && !tooMuch && (ctx.Err() != nil || !errors.As(err, &failure)) {
		return nil, fmt.Errorf("evaluating %q: %w", names, err)
	}
	end, readErr := s.read(output.Stderr, nonce)
	if readErr != nil || !end.begun {
		return nil, fmt.Errorf("evaluating %q: %w", names, cmp.Or(readErr, err, errNoAnswer))
	}
	if end.fetches {
		s.options.Grown()
	}
	if wasEnded(end, failure) {
		return nil, fmt.Errorf("evaluating %q: %w", names, endedError{cmp.Or(err, errEnded)})
	}
	s.conclude(end, tooMuch, failure)
	if why := refused(); why != "" && classify(end.message) == Unfetched {
		end.message += ": " + why
	}
	return end, nil
}

// An endedError is why a process was ended that says nothing about packages. It is errEnded.
type endedError struct{ error }

func (e endedError) Unwrap() error { return e.error }

func (endedError) Is(target error) bool { return target == errEnded }

// wasEnded tells whether a process was ended for a reason that says nothing about packages: by
// somebody else, such as the operator or an init system that stops the registry, or because it was
// stuck. Nix itself ends with a message at a signal that it can handle.
func wasEnded(end *ending, failure *proc.Error) bool {
	if failure == nil {
		return false
	}
	switch failure.Signal {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP:
		return true
	}
	return end.message == "interrupted by the user" || errors.Is(failure, errStuck)
}

// command is the process that evaluates packages.nix for names, without a network.
func (s *session) command(names []string, nonce string, rethrow bool) (proc.Command, error) {
	list, err := json.Marshal(names)
	if err != nil {
		return proc.Command{}, err
	}
	return proc.Command{
		Program: s.options.NixInstantiate,
		Args: append(s.arguments(),
			"--expr", prepareimage.Packages(),
			"--argstr", "src", s.path,
			"--argstr", "system", s.system,
			"--argstr", "names", string(list),
			"--argstr", "nonce", nonce,
			"--argstr", "rethrow", fmt.Sprint(rethrow),
			"--option", "show-trace", fmt.Sprint(rethrow),
			"--argstr", "walk", fmt.Sprint(s.walk),
			"--argstr", "config", s.options.Config,
		),
		ArgNames: map[string]string{
			prepareimage.Packages(): "prepare-image/packages.nix",
			prepareimage.Flake():    "prepare-image/flake.nix",
		},
		Env:       s.environment(),
		MaxOutput: maxOutput,
		Confine:   &proc.Confinement{CPU: s.cpu, Memory: s.options.Memory, Apart: s.store.apart},
	}, nil
}

// execute runs a command. If the set may fetch, the command is ended after a time, with
// errSlowFetch, and when the store has grown too much, with cachedir.ErrTooMuch.
func (s *session) execute(ctx context.Context, command proc.Command) (output proc.Output, err error) {
	if !s.store.fetches {
		ctx, cancel := context.WithTimeoutCause(ctx, stuckFactor*s.options.CPU, errStuck)
		defer cancel()
		return s.runner.Run(ctx, command)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.options.CPU+s.options.FetchTime, errSlowFetch)
	defer cancel()
	err = cachedir.Within(ctx, s.fetchBytes, []string{s.store.cache}, func(ctx context.Context) (err error) {
		output, err = s.runner.Run(ctx, command)
		return err
	})
	return output, err
}

// conclude completes an ending with what Nix itself did not say: whether the process ended well, or
// which limit it ran into. Failure is nil if the process ended well or tooMuch is true.
func (s *session) conclude(end *ending, tooMuch bool, failure *proc.Error) {
	switch {
	case tooMuch:
		s.cpu, s.overgrown, end.limit = 0, true, true
		end.message = "what the package set fetches takes more room than " + units.BytesSize(float64(s.fetchBytes))
	case failure == nil:
		end.well = true
	case failure.CPULimit:
		s.cpu = 0 // whatever the two accounts say
		end.cpu, end.limit = true, true
		end.message = "evaluation takes too much processor time"
	case errors.Is(failure, errSlowFetch):
		s.cpu, end.slow = 0, true
		end.message = fmt.Sprintf(
			"unable to download what the package set fetches within %v", s.options.CPU+s.options.FetchTime,
		)
	case failure.OutputLimit:
		end.limit, end.message = true, "evaluation writes too many messages"
	case end.limit:
		end.message = "evaluation takes too much memory"
	case end.message == "" && failure.Signal != 0:
		end.message = fmt.Sprintf("evaluation ends by signal: %v", failure.Signal)
	case end.message == "":
		end.message = fmt.Sprintf("evaluation ends with status %d", failure.Exit)
	}
}

// allowed are the prefixes of what may be fetched, as Nix's option has them.
func (s *session) allowed() string {
	if !s.store.fetches {
		return ""
	}
	return allowedURIs(s.options.AllowedURIs)
}

func (s *session) arguments() []string {
	args := []string{
		"--eval", "--strict",
		"--store", s.store.uri,
		"--log-format", "internal-json",
		"--option", "restrict-eval", "true",
		"--option", "allow-import-from-derivation", strconv.FormatBool(s.store.reads),
		"--option", "allowed-uris", s.allowed(),
		"--option", "substituters", "",
		"--option", "extra-experimental-features", s.features,
	}
	if len(s.source.NixPath) > 0 {
		// <nixpkgs> is evaluated for this system unless the set says for which. A set without a
		// NixPath may want to know which platform builds.
		args = append(args, "--option", "system", s.system)
	}
	for _, name := range slices.Sorted(maps.Keys(s.source.NixPath)) {
		args = append(args, "-I", name+"="+s.source.NixPath[name])
	}
	args = append(args, "-I", "packages="+s.path) // a path alone would be split at an equals sign
	if s.store.reads {
		args = append(args, s.refusal()...)
	}
	if s.store.write {
		args = append(args, "--read-write-mode")
	}
	if s.store.persistent {
		args = append(args, "--option", "fsync-metadata", "false") // what a power failure loses can be had again
		for _, uri := range s.options.AllowedURIs {
			if directory, ok := strings.CutPrefix(uri, "path:"); ok && strings.HasPrefix(directory, "/") {
				args = append(args, "-I", "allowed="+directory)
			}
		}
	}
	if s.store.flake {
		args = append(args, "--arg", "flake", prepareimage.Flake(), "--argstr", "commit", s.source.Commit)
		if date := s.source.Date; !date.IsZero() {
			args = append(args, "--arg", "lastModified", strconv.FormatInt(date.Unix(), 10))
		}
	}
	return args
}

// environment keeps the host's configuration and channels from changing what a package is.
func (s *session) environment() []string {
	env := []string{
		"HOME=/nonexistent", "NIX_CONF_DIR=/nonexistent", "NIX_USER_CONF_FILES=", "NIX_PATH=",
		"USER=registry", // which Nix asks the host for otherwise, and not every user has a name there
		"TMPDIR=" + s.store.cache, "XDG_CACHE_HOME=" + s.store.cache,
	}
	if !s.store.persistent {
		env = append(env, "NIX_STATE_DIR=/nonexistent")
	}
	return env
}

// wayOut connects a process that fetches to the network, by a proxy in this process. It returns the
// variables by which Nix and git find the proxy, and completes confine. If the host permits, the
// proxy is all there is in the process's own network. If not, or if something may be fetched by
// ssh, the process has the host's network, and the proxy has a password.
func (s *session) wayOut(confine *proc.Confinement) (way *egress.Server, environment []string, err error) {
	address := proc.LoopbackAddress
	if s.ownNetwork() {
		way = s.gate.Server("")
		confine.Loopback = way.Serve
	} else {
		listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, nil, fmt.Errorf("making a proxy for what it fetches: %w", err)
		}
		address = listener.Addr().String()
		way = s.gate.Server(rand.Text())
		way.Serve(listener)
		confine.Network = true
	}
	for _, name := range []string{"PATH", "SSL_CERT_FILE", "NIX_SSL_CERT_FILE"} {
		if value, ok := os.LookupEnv(name); ok {
			environment = append(environment, name+"="+value)
		}
	}
	environment = append(environment, s.gate.GitEnvironment(s.store.cache)...)
	return way, append(environment, way.Environment(address)...), nil
}

// read parses what a process has written to stderr. Nix's messages are lines of JSON behind a mark;
// messages of the set are inside these.
func (s *session) read(stderr []byte, nonce string) (*ending, error) {
	end := new(ending)
	for line := range strings.Lines(string(stderr)) {
		text, isMessage := strings.CutPrefix(line, "@nix ")
		if !isMessage {
			// Nix says this when it is too late for JSON.
			if strings.HasPrefix(line, "GC Warning: Out of Memory") {
				end.limit = true
			} else if text, ok := strings.CutPrefix(line, "error: "); ok {
				end.message = s.clean(text)
			}
			continue
		}
		var message nixMessage
		if json.Unmarshal([]byte(text), &message) != nil {
			continue // cut off by a limit
		}
		end.fetches = end.fetches || message.fetches()
		if payload, ok := strings.CutPrefix(message.Msg, "trace: "+nonce); ok {
			var r report
			if err := json.Unmarshal([]byte(payload), &r); err != nil {
				return nil, fmt.Errorf("reading what Nix answers: %w", err)
			}
			switch {
			case r.Begun:
				end.begun = true
			case r.Set != "":
				end.set, end.config = r.Set, r.Config
			default:
				end.reports = append(end.reports, r)
			}
			continue
		}
		switch {
		case message.RawMsg != "":
			end.message = s.clean(message.text())
		case message.Level == 0 && strings.HasSuffix(message.Msg, " out of memory"):
			end.limit = true
		}
	}
	return end, nil
}
