package eval

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// lockName is a file in the scratch directory.
const lockName = "copying.lock"

// Instantiate does what Evaluate does. It also adds the derivations of the packages that it finds
// to Options.Store, with all that building them needs.
//
// The set's evaluation writes them to a throw-away binary cache of plain files. Another process,
// which the set can't influence, copies them from there. A derivation's name is a hash of its
// content, which that process checks, so a set cannot put anything into the store under another's
// name.
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

// derivationsOf lists the derivations of the packages among results, sorted.
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

// instantiateRead does what Instantiate does, for a set that has to read what is built, or may have
// to.
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

// export adds derivations that were written to a store to Options.Store. It puts them into a binary
// cache first, unless they are there.
func (e *Evaluator) export(ctx context.Context, from evalStore, cache string, derivations []store.Path) error {
	if len(derivations) == 0 {
		return nil
	}
	if from.persistent {
		// The persistent store is a database that untrusted work has made, so a process of that
		// user takes the derivations out of it.
		take := copying{from: from.uri, to: cache, paths: derivations, derivation: true, confine: e.confinement(from)}
		if err := e.copy(ctx, take); err != nil {
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

// lockStore waits until nobody else on this machine with the same ScratchDir copies derivations.
// With Nix 2.8, of two copies at a time that have derivations in common, one fails.
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

// A copying copies paths, and all that they refer to, from one store to another. An empty URI is
// Nix's default store.
type copying struct {
	from, to   string
	paths      []store.Path
	derivation bool // copy derivations themselves, not their outputs
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
