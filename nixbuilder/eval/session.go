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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/egress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	prepareimage "github.com/nixery-registry/nixery-registry/prepare-image"
)

// maxOutput is how much an evaluation may write, in bytes. The attributes that resemble an unknown
// name are the bulk of it.
const maxOutput = 64 << 20

var (
	errNoAnswer  = errors.New("the evaluator does not answer")
	errSlowFetch = errors.New("what it fetches takes too long")
)

// An evalStore is what the evaluating process takes for the Nix store.
type evalStore struct {
	uri        string
	write      bool   // whether derivations are written to it
	cache      string // a directory for what Nix remembers elsewhere
	fetches    bool   // whether the set may fetch what Options.AllowedURIs allows
	persistent bool   // whether it is there the next time
	flake      bool   // whether the set is a flake
	reads      bool   // whether the set may read what was built
	apart      bool   // whether its user is another than that of sets that clients choose
}

// A session is one call's work on one package set: as many processes as it takes, within one budget
// of processor time.
type session struct {
	*Evaluator
	store     evalStore
	source    Source
	path      string // of the set, without symbolic links
	hostPaths *strings.Replacer
	system    string
	walk      bool
	cpu       time.Duration // left
	longer    bool          // it has got the time for fetching
	overgrown bool          // the store took more room than it may
}

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

// findAll evaluates names, each of which is there once, as often as it takes for each to have a
// result.
func (s *session) findAll(ctx context.Context, names []string, results map[string]Result) error {
	for len(names) > 0 {
		if s.cpu <= 0 {
			for _, name := range names {
				results[name] = failed(
					Limit, "the package set's evaluation was out of processor time before it came to %s",
					name,
				)
			}
			return nil
		}
		end, err := s.run(ctx, names, false)
		if err != nil {
			return err
		}
		if fault := s.setupFault(end); fault != nil {
			return fault
		}
		if end.set == "" {
			return &SourceError{
				needs:     neededDerivation(end.message),
				Message:   explainNeeds("it", end.message),
				Limit:     end.limit,
				Unfetched: s.store.fetches && classify(end.message) == Unfetched,
			}
		}
		if end.set != "set" {
			return &SourceError{Message: fmt.Sprintf("it is a %s, not an attribute set of packages", typeName(end.set))}
		}
		for i, report := range end.reports {
			if i >= len(names) || report.Name != names[i] {
				return fmt.Errorf("evaluating %q: Nix answers for %q", names, report.Name)
			}
			results[report.Name] = report.result()
		}
		names = names[len(end.reports):]
		if len(names) == 0 {
			return nil
		}
		if end.well {
			return fmt.Errorf("evaluating %q: %w", names, errNoAnswer)
		}
		kind := Crashes
		switch {
		case end.limit:
			kind = Limit
		case s.store.fetches && classify(end.message) == Unfetched:
			kind = Unfetched
		}
		results[names[0]] = Result{
			Failure: &Failure{
				Kind:      kind,
				needs:     neededDerivation(end.message),
				Message:   explainNeeds(names[0], end.message),
				Transient: s.store.fetches || isFetch(end.message),
			},
		}
		names = names[1:]
	}
	return nil
}

// noConfig is what packages.nix throws where a set takes no config and one is chosen.
const noConfig = "takes no argument config"

// newerNix is how nixpkgs says that it is too new for a Nix: before and since August 2025. A
// version is not always what it misses.
var (
	newerNix = regexp.MustCompile(
		`requires (?:Nix >= ([0-9.]*[0-9])|an implementation of Nix with the following features)`,
	)
	newerNixFeature = regexp.MustCompile("(?m)`builtins.nixVersion` reports at least ([0-9.]*[0-9])")
)

// setupFault is what the operator has to mend where a set ends the evaluation before it is one.
func (s *session) setupFault(end *ending) error {
	if end.set != "" {
		return nil
	}
	if strings.Contains(end.message, noConfig) {
		return &SourceError{Message: end.message, Setup: true}
	}
	needs := newerNix.FindStringSubmatch(end.message)
	if needs == nil {
		return nil
	}
	version := needs[1]
	if feature := newerNixFeature.FindStringSubmatch(end.message); feature != nil {
		version = feature[1]
	}
	if version == "" {
		return &SourceError{Message: "it needs a newer Nix than " + s.version, Setup: true}
	}
	return &SourceError{
		Message: fmt.Sprintf("it needs Nix %s or later, and this is Nix %s", version, s.version),
		Setup:   true,
	}
}

// explainAll finds out why packages refuse to be evaluated: what is caught has no text, so each
// ends an evaluation of its own.
func (s *session) explainAll(ctx context.Context, results map[string]Result) error {
	for _, name := range slices.Sorted(maps.Keys(results)) {
		failure := results[name].Failure
		if failure == nil || failure.Kind != Throws || s.cpu <= 0 {
			continue
		}
		end, err := s.run(ctx, []string{name}, true)
		if err != nil {
			return err
		}
		if end.well || end.limit || end.message == "" {
			continue
		}
		failure.Kind, failure.Message = classify(end.message), explainNeeds(name, end.message)
		failure.needs = neededDerivation(end.message)
		switch failure.Kind {
		case Unfree, Broken, Insecure, Unsupported:
			failure.Message = shortRefusal(failure.Kind, end.message, end.config)
		case Throws:
			failure.Message = asked(failure.Message)
		}
		failure.Transient = s.store.fetches && (failure.Kind == Throws || failure.Kind == Unfetched)
	}
	return nil
}

// mayFetch gives the session the time that fetching may take, once.
func (s *session) mayFetch() {
	if !s.longer {
		s.longer = true
		s.cpu += s.options.FetchTime
	}
}

// run evaluates names in one process, and once more if that was short of time for what it had to
// fetch. It fails only if that is nobody's fault but Nix's or the host's.
func (s *session) run(ctx context.Context, names []string, rethrow bool) (*ending, error) {
	end, err := s.start(ctx, names, rethrow)
	if err == nil && end.cpu && end.fetches && !s.longer {
		s.cpu = s.options.CPU
		s.mayFetch()
		return s.start(ctx, names, rethrow)
	}
	return end, err
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
