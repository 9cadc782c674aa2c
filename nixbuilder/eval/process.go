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

	"github.com/docker/go-units"

	prepareimage "github.com/nixery-registry/nixery-registry/prepare-image"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/egress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

var (
	errNoAnswer  = errors.New("the evaluator does not answer")
	errSlowFetch = errors.New("what it fetches takes too long")
)

// maxOutput is how much an evaluation may write, in bytes. The attributes that resemble an unknown
// name are the bulk of it.
const maxOutput = 64 << 20

// An ending is how far a process came, and why it went no further.
type ending struct {
	begun   bool     // Nix has come as far as the package set
	set     string   // the type of the package set; empty: it fails before it is one
	config  bool     // the set takes an argument config
	reports []report // one per name, in order, up to the culprit
	well    bool
	limit   bool   // it ran into one of its limits
	cpu     bool   // which was that of processor time
	fetches bool   // it began to fetch something
	message string // Nix's error
}

// start is run, for one process.
func (s *session) start(ctx context.Context, names []string, rethrow bool) (*ending, error) {
	list, err := json.Marshal(names)
	if err != nil {
		return nil, fmt.Errorf("evaluating %q: %w", names, err)
	}
	nonce := rand.Text()
	limited := ctx
	if s.store.fetches {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, s.options.CPU+s.options.FetchTime, errSlowFetch)
		defer cancel()
	}
	confine := &proc.Confinement{CPU: s.cpu, Memory: s.options.Memory, Apart: s.store.apart}
	environment := s.environment()
	refused := func() string { return "" }
	if s.store.fetches {
		way, variables, err := s.wayOut(confine)
		if err != nil {
			return nil, fmt.Errorf("evaluating %q: %w", names, err)
		}
		defer way.Close()
		environment, refused = append(environment, variables...), way.Refused
	}
	command := proc.Command{
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
		Env:       environment,
		MaxOutput: maxOutput,
		Confine:   confine,
	}
	var output proc.Output
	run := func(ctx context.Context) (err error) {
		output, err = s.runner.Run(ctx, command)
		return err
	}
	if s.store.fetches {
		err = cachedir.Within(limited, s.fetchBytes, []string{s.store.cache}, run)
	} else {
		err = run(limited)
	}
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
	switch {
	case tooMuch:
		s.cpu, s.overgrown = 0, true
		end.limit, end.message = true, "what the package set fetches takes more room than "+units.BytesSize(
			float64(s.fetchBytes),
		)
	case failure == nil:
		end.well = true
	case failure.CPULimit:
		s.cpu = 0 // whatever the two accounts say
		end.cpu = true
		end.limit, end.message = true, "evaluation takes too much processor time"
	case errors.Is(failure, errSlowFetch):
		s.cpu = 0
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
	if why := refused(); why != "" && classify(end.message) == Unfetched {
		end.message += ": " + why
	}
	return end, nil
}

// allowed are the prefixes of what may be fetched.
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
		// What <nixpkgs> is for, where the set doesn't say it. Other sets may want to know which
		// platform builds.
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
		args = append(args, "--option", "fsync-metadata", "false") // what is lost with a power failure can be had again
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

// environment gives neither the host's configuration nor its channels a say in what a package is.
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

// wayOut gives a process that fetches its way to the network: a proxy of this process, by which Nix
// and git find what they may. Where the host permits, there is nothing else in a network of the
// process's own; where not, or if the list has something that is fetched by ssh, the proxy has a
// password.
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

// read takes what a process has written to stderr apart. Nix's messages are lines of JSON behind a
// mark; a set's own messages are inside them.
func (s *session) read(stderr []byte, nonce string) (*ending, error) {
	end := new(ending)
	for line := range strings.Lines(string(stderr)) {
		text, isMessage := strings.CutPrefix(line, "@nix ")
		if !isMessage {
			// What Nix says when it is too late for more.
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
