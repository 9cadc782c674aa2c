package eval

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// stopsAt matches what versions of Nix say when a set has to read the outputs of a derivation that
// is not in the store, as nothing is written, or may not be built.
var stopsAt = regexp.MustCompile(`^(?:path '(?:/nix/store/)?([^/' ]+\.drv)' is not valid|` +
	`cannot build '/nix/store/([^/'^]+\.drv)(?:\^[^']*)?' during evaluation|` +
	`unknown pre-build hook command '/nix/store/([^/' ]+\.drv)[ ']|` +
	`a '[^']*' with features \{[^}]*\} is required to build '/nix/store/([^/']+\.drv)'|` +
	`Cannot build '/nix/store/([^/']+\.drv)')`)

// neededDerivation is the derivation that an evaluation stopped at; empty if the message is about
// something else.
func neededDerivation(message string) store.Path {
	found := stopsAt.FindStringSubmatch(message)
	if found == nil {
		return ""
	}
	path, err := store.ParsePath(store.Dir + "/" + strings.Join(found[1:], "")) // one of them
	if err != nil {
		return ""
	}
	return path
}

// explainNeeds says in plain words what a package needs that this registry does not have. Who is
// the package, or "it" for the set. Other messages stay as they are.
func explainNeeds(who, message string) string {
	if neededDerivation(message) != "" {
		return who + " needs import from derivation, which is off: " +
			"nix.importfromderivation of this registry can switch it on"
	}
	switch found := experimental.FindStringSubmatch(message); {
	case found == nil:
		return message
	case found[1] == "impure-derivations":
		return who + " is made of an impure derivation, which this registry does not build"
	case found[1] == "ca-derivations":
		return who + " is made of a content-addressed derivation, which this registry does not build"
	default:
		return fmt.Sprintf("%s needs the experimental feature %s of Nix, which is off", who, found[1])
	}
}

// experimental matches what Nix says of a feature that is not switched on.
var experimental = regexp.MustCompile(`experimental Nix feature '([a-z0-9-]+)' is disabled`)

// maxRounds is how often an evaluation goes on after what it stopped at was built.
const maxRounds = 20

// A Realise builds a derivation in Options.Store for an evaluation that has to read its outputs. It
// has the derivation written unless it is there. It keeps both there until release is called. If a
// client can't have the outputs, refused says why. An error is the fault of Nix or of the host.
type Realise func(ctx context.Context, derivation store.Path, write func(context.Context) error) (
	outputs []store.Path, refused string, release func(), err error,
)

// stores remember which derivations' outputs evaluations may read, for each persistent store. Only
// one evaluation uses such a store at a time. The derivations that it writes are removed again,
// since Nix itself would build what is valid there.
type stores struct {
	mu    sync.Mutex
	known map[string]*readStore
}

type readStore struct {
	slot  limit.Slots // one: for using the store, and what follows
	read  map[store.Path]bool
	clean bool // no other derivations are there
}

// acquire waits until nobody else uses a store.
func (s *stores) acquire(ctx context.Context, dir string) (_ *readStore, release func(), err error) {
	s.mu.Lock()
	this, ok := s.known[dir]
	if !ok {
		this = &readStore{slot: limit.NewSlots(1), read: make(map[store.Path]bool)}
		s.known[dir] = this
	}
	s.mu.Unlock()
	if release, err = this.slot.Acquire(ctx); err != nil {
		return nil, nil, fmt.Errorf("evaluating a package set: %w", err)
	}
	return this, release, nil
}

// needed lists the derivations that an evaluation stopped at, sorted.
func needed(results map[string]Result, err error) []store.Path {
	var all []store.Path
	if fault := (*SourceError)(nil); errors.As(err, &fault) && fault.needs != "" {
		all = append(all, fault.needs)
	}
	for _, result := range results {
		if result.Failure != nil && result.Failure.needs != "" {
			all = append(all, result.Failure.needs)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// A reading is an evaluation of a set that may read what is built, in a persistent store.
type reading struct {
	*Evaluator
	source Source
	system string
	names  []string
	walk   bool
	store  evalStore
	known  *readStore
}

// run evaluates, has the derivations built at which the evaluation stopped, and evaluates again. In
// the end, the store has nothing new but what may be read.
func (r *reading) run(ctx context.Context) (map[string]Result, error) {
	for round := 0; ; round++ {
		results, err := r.evaluate(ctx, r.source, r.system, r.names, r.store, r.walk)
		missing := needed(results, err)
		if len(missing) == 0 {
			return results, err
		}
		if round == maxRounds {
			refuse(results, err, missing, fmt.Sprintf("more than %d times in a row", maxRounds))
			return results, err
		}
		refused, provideErr := r.provide(ctx, missing)
		if provideErr != nil {
			return nil, provideErr
		}
		for derivation, why := range refused {
			refuse(results, err, []store.Path{derivation}, why)
		}
		if len(refused) > 0 {
			return results, err
		}
	}
}

// refuse puts why derivations can't be built into the results that stopped at them.
func refuse(results map[string]Result, err error, derivations []store.Path, why string) {
	text := func(who string) string { return who + " needs import from derivation: " + why }
	if fault := (*SourceError)(nil); errors.As(err, &fault) && slices.Contains(derivations, fault.needs) {
		fault.Message = text("it")
	}
	for name, result := range results {
		if f := result.Failure; f != nil && slices.Contains(derivations, f.needs) {
			f.Message, f.Transient = text(name), true
		}
	}
}

// provide has derivations built in Options.Store and copies their outputs into the persistent
// store.
func (r *reading) provide(ctx context.Context, derivations []store.Path) (refused map[store.Path]string, err error) {
	dir, err := r.scratch(r.store.apart)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	writing := r.store
	writing.write = true
	var fault *SourceError
	if _, err := r.evaluate(ctx, r.source, r.system, r.names, writing, r.walk); err != nil && !errors.As(err, &fault) {
		return nil, err
	}
	refused = make(map[store.Path]string)
	var written []store.Path
	for _, derivation := range derivations {
		if _, err := os.Lstat(filepath.Join(r.store.cache, "root", string(derivation))); err != nil {
			refused[derivation] = "it has no derivation " + derivation.Name() // a set can claim anything in Nix's words
			continue
		}
		written = append(written, derivation)
	}
	cache := "file://" + dir + "/store?compression=none"
	for _, derivation := range written {
		why, err := r.build(ctx, derivation, func(ctx context.Context) error {
			return r.export(ctx, r.store, cache, []store.Path{derivation})
		})
		if err != nil {
			return nil, err
		}
		if why != "" {
			refused[derivation] = why
			continue
		}
		r.known.read[derivation] = true
	}
	return refused, r.forget(ctx)
}

// build has one derivation built, and copies its outputs into the persistent store, through a
// binary cache that the set can't influence.
func (r *reading) build(
	ctx context.Context, derivation store.Path, write func(context.Context) error,
) (refused string, err error) {
	outputs, refused, release, err := r.options.Realise(ctx, derivation, write)
	if err != nil || refused != "" {
		return refused, err
	}
	defer release()
	dir, err := os.MkdirTemp(r.options.ScratchDir, "eval-")
	if err != nil {
		return "", fmt.Errorf("making a scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	cache := "file://" + dir + "/store?compression=none"
	if err := r.copy(ctx, copying{from: r.options.Store, to: cache, paths: outputs}); err != nil {
		return "", err
	}
	return "", r.copy(ctx, copying{
		from: cache, to: r.store.uri, paths: outputs, believe: true, confine: r.confinement(r.store),
	})
}

// forget removes derivations from the store, except those whose outputs may be read, and what these
// need.
func (r *reading) forget(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.store.cache, "root", store.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing derivations: %w", err)
	}
	var written, kept []string
	for _, entry := range entries {
		p, err := store.ParsePath(store.Dir + "/" + entry.Name())
		if err != nil || !strings.HasSuffix(entry.Name(), ".drv") {
			continue
		}
		written = append(written, string(p))
		if r.known.read[p] {
			kept = append(kept, string(p))
		}
	}
	if len(kept) > 0 {
		closure, err := r.nixStore(ctx, append([]string{"--query", "--requisites"}, kept...))
		if err != nil {
			return err
		}
		kept = strings.Fields(string(closure))
	}
	slices.Sort(kept)
	isKept := func(p string) bool { _, ok := slices.BinarySearch(kept, p); return ok }
	written = slices.DeleteFunc(written, isKept)
	if len(written) == 0 {
		return nil
	}
	// Outputs stay that another process has put there to be read.
	_, err = r.nixStore(ctx, append([]string{"--option", "keep-derivations", "false", "--delete"}, written...))
	return err
}

// nixStore runs nix-store on the persistent store, as the store's user.
func (r *reading) nixStore(ctx context.Context, args []string) ([]byte, error) {
	options := []string{"--store", r.store.uri, "--option", "extra-experimental-features", r.features}
	output, err := r.runner.Run(ctx, proc.Command{
		Program: filepath.Join(filepath.Dir(r.nix), "nix-store"),
		Args:    append(options, args...),
		Env: []string{
			"HOME=/nonexistent", "USER=registry", "NIX_CONF_DIR=/nonexistent", "XDG_CACHE_HOME=/nonexistent",
		},
		Kill:    syscall.SIGTERM,
		Confine: r.confinement(r.store),
	})
	if err != nil {
		return nil, fmt.Errorf("looking after a store for what is read: %w", err)
	}
	return output.Stdout, nil
}

// confinement is the one of programs that look after a persistent store.
func (e *Evaluator) confinement(s evalStore) *proc.Confinement {
	return &proc.Confinement{Memory: e.options.Memory, Apart: s.apart}
}

// refusal returns settings by which Nix asks a program before it builds in a persistent store. Nix
// does not understand the program's answer, so it builds nothing, and says what it was about to
// build.
func (e *Evaluator) refusal() []string {
	return []string{
		"--option", "sandbox", "false", "--option", "build-users-group", "", "--option", "builders", "",
		"--option", "pre-build-hook", e.refuser,
	}
}
