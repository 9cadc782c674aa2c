package eval

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/egress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

const (
	defaultCPU       = 30 * time.Second
	defaultFetchTime = 5 * time.Minute
	defaultMemory    = 2 << 30
)

// processors is the part of them that evaluations may take while this process is busy.
const processors = 0.07

// Options say how to evaluate.
type Options struct {
	// NixInstantiate is the program's file name; empty: nix-instantiate of PATH. The program nix is
	// expected beside it.
	NixInstantiate string
	// CPU is the processor time for all names of one call together, in whole seconds; zero: 30 s.
	CPU time.Duration
	// FetchTime is how much longer a call that fetches may take, in processor time and by the
	// clock, in whole seconds; zero: 5 min.
	FetchTime time.Duration
	// Memory is the address space of the evaluating process in bytes; zero: 2 GiB.
	Memory int64
	// AllowedURIs are prefixes of what package sets may fetch during evaluation; none: they have no
	// network.
	AllowedURIs []string
	// Realise builds what package sets read during evaluation; nil: such packages are refused.
	Realise Realise
	// Config is the argument config of package sets, as JSON; empty: {} for sets that take it. If
	// it is not empty, a set that does not take it is at fault.
	Config string
	// ScratchDir is a directory for throw-away stores, which unprivileged users must be able to
	// pass through; empty: os.TempDir.
	ScratchDir string
	// MaxBytes is how much a persistent store may hold, and how much one evaluation may add to it;
	// zero: 4 GiB, which is also the maximum. Grown is called when something was added; nil: nobody
	// is told.
	MaxBytes int64
	Grown    func()
	// Store is the URI of the store that Instantiate adds derivations to; empty: Nix's default.
	Store string
	// HostEnv is the environment, as KEY=value, in which Nix finds the configuration of that store;
	// none: the environment of a user without any.
	HostEnv []string
}

// Evaluator evaluates package sets. It is safe for concurrent use: every call has its own
// processes.
type Evaluator struct {
	runner  *proc.Runner
	gate    *egress.Gate
	options Options
	nix     string
	copying limit.Slots // one: for copying derivations to Options.Store
	pace    *limit.Pace // of the processes

	version, features string // of Nix

	revisions       *revisions
	stores          *stores
	refuser         string // a program that writes what it is asked
	persistentBytes int64
	fetchBytes      int64 // by which a persistent store may grow in one evaluation
}

// A Source is a package set: a directory with a default.nix or else a flake.nix, or a single .nix
// file that needs no other. Unprivileged users must be able to read it, and nothing may change it
// during evaluation.
type Source struct {
	// Path is absolute.
	Path string
	// Commit is the set's git commit, empty if it has none, and Date is the commit's. Flakes may
	// ask for both.
	Commit string
	Date   time.Time
	// NixPath maps the names that the set can look up between angle brackets to absolute paths.
	// What holds for Path holds for these.
	NixPath map[string]string
	// Shares is not empty if the operator has chosen all of this content. Sets with the same Shares
	// share what they fetch, and are evaluated as another user than sets without. Empty: the set
	// shares nothing.
	Shares string
}

// isFlake tells whether the set at an absolute path is a flake. One that also works without flakes
// does not count.
func isFlake(path string) bool {
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return err == nil
	}
	return exists("flake.nix") && !exists("default.nix")
}

// New finds Nix and asks for its version.
func New(ctx context.Context, runner *proc.Runner, options Options) (*Evaluator, error) {
	program, err := proc.Find(cmp.Or(options.NixInstantiate, "nix-instantiate"))
	if err != nil {
		return nil, fmt.Errorf("finding Nix: %w", err)
	}
	if options.NixInstantiate, err = filepath.Abs(program); err != nil {
		return nil, fmt.Errorf("finding Nix: %w", err)
	}
	options.CPU = cmp.Or(options.CPU, defaultCPU)
	options.FetchTime = cmp.Or(options.FetchTime, defaultFetchTime)
	options.Memory = cmp.Or(options.Memory, defaultMemory)
	if options.Grown == nil {
		options.Grown = func() {}
	}
	options.ScratchDir = cmp.Or(options.ScratchDir, os.TempDir())
	if !regexp.MustCompile(`^(/[0-9A-Za-z_-][0-9A-Za-z._-]*)+$`).MatchString(options.ScratchDir) {
		return nil, fmt.Errorf(
			"making scratch directories in %q: it must be absolute, of letters, digits, dots, dashes and underscores",
			options.ScratchDir,
		)
	}
	most := min(persistentBytes, cmp.Or(options.MaxBytes, persistentBytes))
	e := &Evaluator{
		runner:          runner,
		gate:            egress.New(options.AllowedURIs),
		options:         options,
		nix:             filepath.Join(filepath.Dir(options.NixInstantiate), "nix"),
		copying:         limit.NewSlots(1),
		pace:            limit.NewPace(processors),
		revisions:       newRevisions(),
		stores:          &stores{known: make(map[string]*readStore)},
		persistentBytes: most,
		fetchBytes:      most,
	}
	if options.Realise != nil {
		if e.refuser, err = proc.Find("echo"); err != nil {
			return nil, fmt.Errorf("finding what keeps evaluations from building: %w", err)
		}
	}
	output, err := runner.Run(ctx, proc.Command{
		Program: options.NixInstantiate, Args: []string{"--version"}, Env: []string{"HOME=/nonexistent"},
	})
	if err != nil {
		return nil, fmt.Errorf("asking for Nix's version: %w", err)
	}
	match := regexp.MustCompile(`\(Nix\) ([0-9][0-9A-Za-z.+_-]*)\n$`).FindSubmatch(output.Stdout)
	if match == nil {
		return nil, fmt.Errorf("asking for Nix's version: %s answers %q", options.NixInstantiate, output.Stdout)
	}
	e.version = string(match[1])
	if e.features, err = e.askFeatures(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// Version is the version of Nix, such as 2.8.0.
func (e *Evaluator) Version() string { return e.version }

// Features are the experimental features of Nix that package sets may use, as in nix.conf. Results
// depend on them.
func (e *Evaluator) Features() string { return e.features }

// Shared tells why what package sets fetch comes through the host's network, by a proxy with a
// password. It is empty if evaluations have a network of their own in which there is only the
// proxy.
func (e *Evaluator) Shared() string {
	switch {
	case len(e.options.AllowedURIs) == 0 || e.ownNetwork():
		return ""
	case e.gate.SSH():
		return "an entry of nix.alloweduris is for ssh, which asks no proxy"
	}
	return "the host does not permit evaluations a network of their own"
}

func (e *Evaluator) ownNetwork() bool { return e.runner.OwnNetworks() && !e.gate.SSH() }
