package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/egress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	defaultCPU       = 30 * time.Second
	defaultFetchTime = 5 * time.Minute
	defaultMemory    = 2 << 30

	// lockName is a file in the scratch directory.
	lockName = "copying.lock"

	// maxName is the longest name that is looked up, in bytes: the registry's own limit for a whole
	// repository name.
	maxName = 255
	// MaxNames is how many names one call takes. It keeps the list of names within what one
	// argument of a program may be, 128 KiB, with every letter escaped.
	MaxNames = 64
)

// Options say how to evaluate.
type Options struct {
	// NixInstantiate is the program's file name; empty: nix-instantiate of PATH. nix itself is
	// expected beside it.
	NixInstantiate string
	// CPU is the processor time for all names of one call together, in whole seconds; zero: 30 s.
	CPU time.Duration
	// FetchTime is how much longer a call may take that fetches, of a processor and by the clock,
	// in whole seconds; zero: 5 min.
	FetchTime time.Duration
	// Memory is the address space of the evaluating process in bytes; zero: 2 GiB.
	Memory int64
	// AllowedURIs are prefixes of what package sets may fetch while they are evaluated; none: they
	// have no network.
	AllowedURIs []string
	// Realise builds what package sets have to read while they are evaluated; nil: nothing is, and
	// such packages are refused.
	Realise Realise
	// Config is the argument of that name of package sets, as JSON; empty: {} for those that take
	// it. A set that does not take what is here is at fault.
	Config string
	// ScratchDir is a directory for throw-away stores, which unprivileged users must be able to
	// pass through; empty: that of os.TempDir.
	ScratchDir string
	// MaxBytes is how much a store may hold that sets fetch into, and one evaluation may add to it;
	// zero: 4 GiB, which is also the most. Grown is called when something was added; nil: nobody is
	// told.
	MaxBytes int64
	Grown    func()
	// Store is the URI of the store that Instantiate adds derivations to; empty: Nix's default.
	Store string
	// HostEnv is the environment, as KEY=value, in which Nix finds the configuration of that store;
	// none: that of a user without one.
	HostEnv []string
}

// Evaluator evaluates package sets. It is safe for concurrent use: every call has processes of its
// own.
type Evaluator struct {
	runner  *proc.Runner
	gate    *egress.Gate
	options Options
	nix     string
	copying limit.Slots // one: for copying derivations to Options.Store

	version, features string // of Nix

	revisions       *revisions
	stores          *stores
	refuser         string // a program that writes what it is asked
	persistentBytes int64
	fetchBytes      int64 // by which a persistent store may grow in one evaluation
}

// A Source is a package set: a directory with a default.nix or else a flake.nix, or a single .nix
// file that needs no other. Unprivileged users must be able to read it, and nothing may change it
// while it is evaluated.
type Source struct {
	// Path is absolute.
	Path string
	// Commit is the git commit that it is, empty if it is none, and Date is when it was made.
	// Flakes may ask for both.
	Commit string
	Date   time.Time
	// NixPath are absolute paths of what the set can look up between angle brackets, by name. They
	// are as its own.
	NixPath map[string]string
	// Shares is set if all of this content is what the operator has chosen. Sets with the same text
	// here then share what they fetch, and are evaluated as another user than sets without. Empty:
	// it shares nothing.
	Shares string
}

// isFlake tells whether a set at an absolute path is a flake. One that works without flakes, too,
// is not taken for one.
func isFlake(path string) bool {
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return err == nil
	}
	return exists("flake.nix") && !exists("default.nix")
}

// New finds Nix and asks for its version.
func New(ctx context.Context, runner *proc.Runner, options Options) (*Evaluator, error) {
	if options.NixInstantiate == "" {
		options.NixInstantiate = "nix-instantiate"
	}
	program, err := proc.Find(options.NixInstantiate)
	if err != nil {
		return nil, fmt.Errorf("finding Nix: %w", err)
	}
	if options.NixInstantiate, err = filepath.Abs(program); err != nil {
		return nil, fmt.Errorf("finding Nix: %w", err)
	}
	if options.CPU == 0 {
		options.CPU = defaultCPU
	}
	if options.FetchTime == 0 {
		options.FetchTime = defaultFetchTime
	}
	if options.Memory == 0 {
		options.Memory = defaultMemory
	}
	if options.Grown == nil {
		options.Grown = func() {}
	}
	if options.ScratchDir == "" {
		options.ScratchDir = os.TempDir()
	}
	if !regexp.MustCompile(`^(/[0-9A-Za-z_-][0-9A-Za-z._-]*)+$`).MatchString(options.ScratchDir) {
		return nil, fmt.Errorf(
			"making scratch directories in %q: it must be absolute, of letters, digits, dots, dashes and underscores",
			options.ScratchDir,
		)
	}
	most := min(persistentBytes, cmp.Or(options.MaxBytes, persistentBytes))
	e := &Evaluator{
		runner: runner, gate: egress.New(options.AllowedURIs), options: options, nix: filepath.Join(filepath.Dir(options.NixInstantiate), "nix"), copying: limit.NewSlots(1),
		revisions: newRevisions(), persistentBytes: most, fetchBytes: most, stores: &stores{known: make(map[string]*readStore)},
	}

	if options.Realise != nil {
		if e.refuser, err = proc.Find("echo"); err != nil {
			return nil, fmt.Errorf("finding what keeps evaluations from building: %w", err)
		}
	}
	output, err := runner.Run(
		ctx,
		proc.Command{Program: options.NixInstantiate, Args: []string{"--version"}, Env: []string{"HOME=/nonexistent"}},
	)
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
// password; empty if it comes by that proxy alone, in a network that has nothing else.
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

// askFeatures asks Nix whether it is configured to build content-addressed derivations.
func (e *Evaluator) askFeatures(ctx context.Context) (string, error) {
	const example = `(derivation { name = "example"; system = "none"; builder = "none"; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }).outPath`
	output, err := e.runner.Run(ctx, proc.Command{
		Program: e.options.NixInstantiate,
		Args:    []string{"--eval", "--store", "dummy://", "--expr", example},
		Env: slices.Concat(
			[]string{"HOME=/nonexistent", "USER=registry", "NIX_STATE_DIR=/nonexistent"}, e.options.HostEnv,
		),
	})
	if err != nil && experimental.Match(output.Stderr) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("asking whether Nix builds content-addressed derivations: %w", err)
	}
	return "ca-derivations", nil
}

// Derive adds a derivation that an expression of this program makes to Options.Store.
func (e *Evaluator) Derive(ctx context.Context, expression string) (store.Path, error) {
	args := []string{"--expr", expression}
	if e.options.Store != "" {
		args = append(args, "--store", e.options.Store)
	}
	output, err := e.runner.Run(ctx, proc.Command{
		Program: e.options.NixInstantiate, Args: args, Env: slices.Concat([]string{"HOME=/nonexistent", "USER=registry", "NIX_PATH="}, e.options.HostEnv), Kill: syscall.SIGTERM,
	})
	if err != nil {
		return "", fmt.Errorf("adding a derivation: %w", err)
	}
	return store.ParsePath(strings.TrimSpace(string(output.Stdout)))
}

// Setting is the value of a setting as nix.conf has it.
func (e *Evaluator) Setting(ctx context.Context, name string) (string, error) {
	output, err := e.runner.Run(ctx, proc.Command{
		Program: e.nix, Args: []string{"--extra-experimental-features", "nix-command", "show-config"}, // newer Nix calls it config show, too
		Env: slices.Concat([]string{"HOME=/nonexistent", "USER=registry"}, e.options.HostEnv),
	})
	if err != nil {
		return "", fmt.Errorf("asking for the setting %s: %w", name, err)
	}
	for line := range strings.Lines(string(output.Stdout)) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("asking for the setting %s: Nix does not know it", name)
}

// Evaluate finds names in a package set and says what they stand for on system, such as
// x86_64-linux. A name is an attribute, with _ before it or in another case if there is none of
// that name, or several joined by dots, the last of which may be an output; 64 at most. Every name
// gets a result; repetition does not matter, and order only where one takes all the time that there
// is: those after it get none then. Nothing is written. It fails with a *SourceError if the set is
// at fault, and with ctx.
//
// It starts one process. Each package that ends the whole evaluation (Crashes, Limit) costs
// another, and so does each that refuses (Unfree, Broken, Throws, ...).
//
// A set that fetches while it is evaluated (fetchTarball, fetchGit) gets a network and a persistent
// store, if Options.AllowedURIs lets it fetch anything. The first time, that costs one more
// evaluation: the one that shows the need. A flake has a persistent store in any case. The evaluation
// that fetches first may take Options.FetchTime longer. A later one that is still fetching when its
// time is over begins again with that time.
func (e *Evaluator) Evaluate(
	ctx context.Context, source Source, system string, names []string,
) (map[string]Result, error) {
	return e.readOnly(ctx, source, system, names, false)
}

// Walk does what Evaluate does, for a caller that goes through a whole set: the name "" stands for
// the set itself, results tell of sets what is in them, and packages that refuse to be evaluated
// all have the kind Throws, since finding out why would take a process for each.
func (e *Evaluator) Walk(ctx context.Context, source Source, system string, names []string) (map[string]Result, error) {
	return e.readOnly(ctx, source, system, names, true)
}

func (e *Evaluator) readOnly(
	ctx context.Context, source Source, system string, names []string, walk bool,
) (map[string]Result, error) {
	persistent, err := e.persistent(source)
	if err != nil {
		return nil, err
	}
	// A store that is only imagined: paths are computed, nothing is kept.
	target := evalStore{uri: "dummy://", cache: "/nonexistent", apart: persistent.apart}
	switch {
	case persistent.fetches && persistent.exists():
		target = persistent
	case persistent.flake:
		target = persistent.offline() // flakes read their own files from the store
	}
	for {
		results, err := e.evaluateOrRead(ctx, source, system, names, target, walk)
		if target.fetches || !persistent.fetches || !wantsToFetch(results, err) {
			return results, err
		}
		target = persistent
	}
}

// evaluateOrRead is evaluate, and more where a set has to read what is built, if it may.
func (e *Evaluator) evaluateOrRead(
	ctx context.Context, source Source, system string, names []string, target evalStore, walk bool,
) (map[string]Result, error) {
	if e.options.Realise == nil {
		return e.evaluate(ctx, source, system, names, target, walk)
	}
	if !target.persistent {
		results, err := e.evaluate(ctx, source, system, names, target, walk)
		persistent, persistentErr := e.persistent(source)
		if persistentErr != nil {
			return nil, persistentErr
		}
		if len(needed(results, err)) == 0 || persistent.fetches && wantsToFetch(results, err) {
			return results, err // with a network, all is done at once
		}
		target = persistent.offline()
	}
	known, releaseStore, err := e.stores.acquire(ctx, target.cache)
	if err != nil {
		return nil, err
	}
	defer releaseStore()
	r := reading{e, source, system, names, walk, target, known}
	if !known.clean {
		if err := r.forget(ctx); err != nil { // what others have left there
			return nil, err
		}
		known.clean = true
	}
	if target.flake {
		// Its own files are written to the store with the derivations.
		results, err := e.evaluate(ctx, source, system, names, target, walk)
		if forgetErr := r.forget(ctx); forgetErr != nil {
			return nil, forgetErr
		}
		if len(needed(results, err)) == 0 {
			return results, err
		}
	}
	r.store.reads, r.store.write = true, false
	return r.run(ctx)
}

// Instantiate does what Evaluate does, and adds the derivations of the packages that it finds to
// Options.Store, with all that they need to be built there.
//
// The set's evaluation writes them to a throw-away binary cache of plain files. A process of its
// own, which the set has no hold on, copies them: each path's name there is a hash of its content,
// which is checked, so that a set cannot put anything into the store under another's name.
func (e *Evaluator) Instantiate(
	ctx context.Context, source Source, system string, names []string,
) (results map[string]Result, err error) {
	target, err := e.persistent(source)
	if err != nil {
		return nil, err
	}
	dir, err := e.scratch(target.apart)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	cache := "file://" + dir + "/store?compression=none"
	switch fetched := target.fetches && target.exists(); {
	case fetched:
	case target.flake:
		target = target.offline()
	default:
		target = evalStore{uri: cache, cache: dir, apart: target.apart}
	}
	if target.persistent {
		if e.options.Realise != nil {
			return e.instantiateRead(ctx, source, system, names, cache)
		}
		_, release, err := e.hold(target)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	target.write = true
	results, err = e.evaluate(ctx, source, system, names, target, false)
	if e.options.Realise != nil && len(needed(results, err)) > 0 {
		return e.instantiateRead(ctx, source, system, names, cache)
	}
	if err != nil {
		return nil, err
	}
	return results, e.export(ctx, target, cache, derivationsOf(results))
}

// derivationsOf are those of the packages among results.
func derivationsOf(results map[string]Result) []store.Path {
	var derivations []store.Path
	for _, result := range results {
		if p := result.Package; p != nil {
			derivations = append(derivations, p.Derivation)
		}
	}
	slices.Sort(derivations)
	return slices.Compact(derivations)
}

// instantiateRead is Instantiate for a set that has to read what is built, or may have to.
func (e *Evaluator) instantiateRead(
	ctx context.Context, source Source, system string, names []string, cache string,
) (map[string]Result, error) {
	results, err := e.readOnly(ctx, source, system, names, false) // so that it can
	if err != nil || len(needed(results, nil)) > 0 {
		return results, err
	}
	persistent, err := e.persistent(source)
	if err != nil {
		return nil, err
	}
	target := persistent
	if !persistent.fetches || !persistent.exists() {
		target = persistent.offline()
	}
	_, release, err := e.hold(target)
	if err != nil {
		return nil, err
	}
	defer release()
	known, releaseStore, err := e.stores.acquire(ctx, target.cache)
	if err != nil {
		return nil, err
	}
	defer releaseStore()
	target.write, target.reads = true, true
	r := reading{e, source, system, names, false, target, known}
	if results, err = e.evaluate(ctx, source, system, names, target, false); err != nil {
		return nil, err
	}
	return results, errors.Join(e.export(ctx, target, cache, derivationsOf(results)), r.forget(ctx))
}

// export adds derivations that were written to a store to Options.Store, by way of a cache if that
// is not where they are.
func (e *Evaluator) export(ctx context.Context, from evalStore, cache string, derivations []store.Path) error {
	if len(derivations) == 0 {
		return nil
	}
	if from.persistent {
		// The persistent store is a database that untrusted work has made, so its own user takes the
		// derivations out of it.
		if err := e.copy(
			ctx,
			copying{from: from.uri, to: cache, paths: derivations, derivation: true, confine: e.confinement(from)},
		); err != nil {
			return err
		}
	}
	unlock, err := e.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return e.copy(ctx, copying{from: cache, to: e.options.Store, paths: derivations, derivation: true})
}

// lockStore waits until nobody else on this machine, that has the same ScratchDir, copies
// derivations: two at a time that share some make one of them fail, with Nix 2.8.
func (e *Evaluator) lockStore(ctx context.Context) (unlock func(), err error) {
	release, err := e.copying.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(
		filepath.Join(e.options.ScratchDir, lockName), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600,
	)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("waiting for others that add derivations to the store: %w", err)
	}
	return func() {
		lock.Close()
		release()
	}, nil
}

// A copying is of paths, with all that they refer to, from one store to another. Empty URIs are of
// Nix's default.
type copying struct {
	from, to   string
	paths      []store.Path
	derivation bool // they are derivations that are meant themselves
	believe    bool // without signatures
	confine    *proc.Confinement
}

func (e *Evaluator) copy(ctx context.Context, c copying) error {
	args := []string{"--extra-experimental-features", "nix-command " + e.features, "copy"}
	if c.derivation {
		args = append(args, "--derivation")
	}
	if c.believe {
		args = append(args, "--no-check-sigs")
	}
	if c.from != "" {
		args = append(args, "--from", c.from)
	}
	if c.to != "" {
		args = append(args, "--to", c.to)
	}
	args = append(args, "--")
	for _, p := range c.paths {
		args = append(args, string(p))
	}
	_, err := e.runner.Run(ctx, proc.Command{
		Program: e.nix,
		Args:    args,
		// Nix wants a user's name, which the numeric users of containers lack.
		Env:     []string{"HOME=/nonexistent", "USER=registry", "XDG_CACHE_HOME=/nonexistent"},
		Kill:    syscall.SIGTERM,
		Confine: c.confine,
	})
	if err != nil {
		return fmt.Errorf("copying store paths: %w", err)
	}
	return nil
}

// scratch makes a directory that only the evaluating process's user can write to.
func (e *Evaluator) scratch(apart bool) (string, error) {
	dir, err := os.MkdirTemp(e.options.ScratchDir, "eval-")
	if err != nil {
		return "", fmt.Errorf("making a scratch directory: %w", err)
	}
	uid, gid := e.runner.ConfinedUser(apart)
	if err := os.Chown(dir, uid, gid); err != nil {
		return "", errors.Join(fmt.Errorf("making a scratch directory: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

func (e *Evaluator) evaluate(
	ctx context.Context, source Source, system string, names []string, nixStore evalStore, walk bool,
) (results map[string]Result, err error) {
	path, err := filepath.EvalSymlinks(source.Path) // Nix compares resolved paths with the ones that it was allowed
	if err != nil {
		return nil, fmt.Errorf("evaluating a package set: %w", err)
	}
	nixPath := make(map[string]string, len(source.NixPath))
	for name, other := range source.NixPath {
		if nixPath[name], err = filepath.EvalSymlinks(other); err != nil {
			return nil, fmt.Errorf("evaluating a package set: %w", err)
		}
	}
	source.NixPath = nixPath
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("evaluating a package set: %q is not absolute", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("evaluating a package set: %w", err)
	}
	s := &session{
		Evaluator: e,
		store:     nixStore,
		source:    source,
		path:      path,
		hostPaths: hidePaths(source, path, !info.IsDir(), nixStore.cache),
		system:    system,
		walk:      walk,
		cpu:       e.options.CPU,
	}
	if nixStore.persistent {
		nth, done, err := e.revisions.acquire(ctx, nixStore.cache, path)
		if err != nil {
			return nil, fmt.Errorf("evaluating a package set: %w", err)
		}
		if nth%weighedEvery == 1 && cachedir.Usage(nixStore.cache) > e.persistentBytes {
			remove(nixStore.cache)
		}
		fresh, release, err := e.hold(nixStore)
		if err != nil {
			done(false)
			return nil, err
		}
		defer func() {
			release()
			if s.overgrown {
				remove(nixStore.cache)
			}
			done(err == nil)
		}()
		if fresh && nixStore.fetches {
			s.mayFetch()
		}
	}

	results = make(map[string]Result)
	var pending []string
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		if whole := walk && name == ""; !whole && !plausible(name) {
			results[name] = failed(NotFound, "there is no package %q", name)
			continue
		}
		pending = append(pending, name)
	}
	if len(pending) > MaxNames {
		return nil, fmt.Errorf("evaluating %d names at once: at most %d", len(pending), MaxNames)
	}
	if err = s.findAll(ctx, pending, results); err != nil {
		return nil, err
	}
	if walk {
		return results, nil
	}
	err = s.explainAll(ctx, results)
	return results, err
}

// plausible reports whether a set may have an attribute of this name that a client would ask for.
// Nix is not asked for others: not all of their bytes would reach it as they are.
func plausible(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, unicode.IsControl)
}
