package eval

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxName is the longest name that is looked up, in bytes: the registry's limit for a whole
	// repository name.
	maxName = 255
	// MaxNames is how many names one call takes. It keeps the list of names within what one
	// argument of a program may be, 128 KiB, with every letter escaped.
	MaxNames = 64
)

// Evaluate finds names in a package set and says what they stand for on system, such as
// x86_64-linux. A name is an attribute, or several joined by dots, the last of which may be an
// output. If there is no attribute of that name, it is tried with _ before it and in another case.
// There may be 64 names; repetition does not matter. Every name gets a result. Order matters only
// if one name takes all the time that there is: those after it get none then.
//
// Evaluate writes nothing. It fails with a *SourceError if the set is at fault, and when ctx ends.
//
// It starts one process. Each package that ends the whole evaluation (Crashes, Limit) costs
// another, and so does each that refuses (Unfree, Broken, Throws, ...).
//
// A set that fetches during evaluation (fetchTarball, fetchGit) gets a network and a persistent
// store, if Options.AllowedURIs lets it fetch anything. The first time, that costs one more
// evaluation: the one that shows the need. A flake has a persistent store in any case. The
// evaluation that fetches first may take Options.FetchTime longer. A later one that is still
// fetching when its time is over begins again with that time.
func (e *Evaluator) Evaluate(
	ctx context.Context, source Source, system string, names []string,
) (map[string]Result, error) {
	return e.readOnly(ctx, source, system, names, false)
}

// Walk does what Evaluate does, for a caller that goes through a whole set. The name "" stands for
// the set itself, and results of sets tell what is in them. Packages that refuse to be evaluated
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
	// An imagined store: Nix computes paths and keeps nothing.
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

// evaluateOrRead does what evaluate does. If the set has to read what is built, and may, it has
// that built.
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

// evaluate does what Evaluate does, once and with one store.
func (e *Evaluator) evaluate(
	ctx context.Context, source Source, system string, names []string, nixStore evalStore, walk bool,
) (map[string]Result, error) {
	s, err := e.newSession(source, system, nixStore, walk)
	if err != nil {
		return nil, fmt.Errorf("evaluating a package set: %w", err)
	}
	if nixStore.persistent {
		release, err := s.acquireStore(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	results := make(map[string]Result)
	var pending []string
	for i, name := range names {
		whole := walk && name == ""
		switch {
		case slices.Contains(names[:i], name):
		case whole || plausible(name):
			pending = append(pending, name)
		default:
			results[name] = failed(NotFound, "there is no package %q", name)
		}
	}
	if len(pending) > MaxNames {
		return nil, fmt.Errorf("evaluating %d names at once: at most %d", len(pending), MaxNames)
	}
	if err := s.findAll(ctx, pending, results); err != nil {
		return nil, err
	}
	if walk {
		return results, nil
	}
	return results, s.explainAll(ctx, results)
}

// plausible reports whether a set may have an attribute of this name that a client would ask for.
// Nix is not asked for other names: some bytes would not reach it as they are.
func plausible(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, unicode.IsControl)
}
