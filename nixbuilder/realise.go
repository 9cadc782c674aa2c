package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// errNoStore is that no Nix daemon can be started, or none that has a store.
var errNoStore = errors.New("opening the Nix store")

func tooLarge(size, most int64) error {
	return Errorf(Denied, "the store paths of this image are %s together, %s are allowed", units.HumanSize(float64(size)), units.HumanSize(float64(most)))
}

// realise makes the outputs of an order's packages valid: what is not in the store is downloaded where a binary cache has it, and built otherwise. They
// stay valid until the connection that it returns is put back. If they can all be downloaded, and early is true, it does not wait for that, and
// returns the download too, which the caller must close before. Images that Nix has nothing to do for do not wait for others.
func (b *Builder) realise(ctx context.Context, o order, early bool) (*daemon.Conn, *download, error) {
	outputs := o.packages.outputs()
	conn, absent, err := b.hold(ctx, outputs)
	if err != nil || len(absent) == 0 {
		return conn, nil, err
	}
	b.daemons.Put(conn) // whoever waits holds none
	leave, err := enter(ctx, b.building)
	if err != nil {
		return nil, nil, err
	}
	if conn, absent, err = b.hold(ctx, outputs); err != nil || len(absent) == 0 {
		leave()
		return conn, nil, err
	}
	coming, err := b.work(ctx, conn, o, absent, early, leave)
	if coming == nil {
		leave()
	}
	if err != nil {
		b.daemons.Put(conn)
		return nil, nil, err
	}
	return conn, coming, nil
}

// hold opens a connection that keeps paths from Nix's garbage collector, and tells which of them are not there.
func (b *Builder) hold(ctx context.Context, paths []store.Path) (conn *daemon.Conn, absent []store.Path, err error) {
	conn, err = b.daemons.Get(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errNoStore, err)
	}
	err = conn.AddTempRoots(ctx, paths)
	var valid []store.Path
	if err == nil {
		valid, err = conn.ValidPaths(ctx, paths)
	}
	if err != nil {
		b.daemons.Put(conn)
		return nil, nil, err
	}
	for _, p := range paths {
		if !slices.Contains(valid, p) {
			absent = append(absent, p)
		}
	}
	return conn, absent, nil
}

// work has Nix make absent outputs, if that stays within the limits. Derivations are only written where binary caches do not have it
// all, or do not give what they say they have: Nix takes nothing that is not signed by a key that it trusts. With early, what can all be
// downloaded is returned as a download, which calls ended.
func (b *Builder) work(ctx context.Context, conn *daemon.Conn, o order, absent []store.Path, early bool, ended func()) (*download, error) {
	targets := make([]daemon.DerivedPath, len(absent))
	for i, p := range absent {
		targets[i] = daemon.Opaque(p)
	}
	missing, err := conn.QueryMissing(ctx, targets)
	if err != nil {
		return nil, err
	}
	if len(missing.Unknown) == 0 {
		if early {
			if coming, err := b.download(ctx, conn, o.packages.outputs(), targets, missing, ended); coming != nil || err != nil {
				return coming, err
			}
		}
		failed := (*buildError)(nil)
		if err := b.run(ctx, conn, targets, missing); !errors.As(err, &failed) {
			return nil, err
		}
		logrus.Warnf("nix: building what can't be downloaded: %s", failed)
	}
	if targets, err = b.derivations(ctx, conn, o.packages.with(absent), o.pinned, o.system); err != nil {
		return nil, err
	}
	if missing, err = conn.QueryMissing(ctx, targets); err != nil {
		return nil, err
	}
	return nil, explain(b.run(ctx, conn, targets, missing))
}

// derivations adds those of packages to the store, and returns what to ask of them.
func (b *Builder) derivations(ctx context.Context, conn *daemon.Conn, wanted packages, pinned source.Pinned, system string) ([]daemon.DerivedPath, error) {
	var targets []daemon.DerivedPath
	var names []string
	var paths []store.Path
	for _, c := range wanted {
		target, err := daemon.Outputs(c.Derivation, c.OutputsToInstall...)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target)
		names = append(names, c.name)
		paths = append(paths, c.Derivation)
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	if err := conn.AddTempRoots(ctx, paths); err != nil {
		return nil, err
	}
	written, err := conn.ValidPaths(ctx, paths)
	if err != nil || len(written) == len(paths) {
		return targets, err
	}
	_, err = b.evaluator.Instantiate(ctx, sourceOf(pinned), system, names)
	if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
		return nil, faultOf(pinned, fault)
	}
	return targets, err
}

// run has Nix do its work. It fails with a *buildError if that is for what is built or downloaded to answer for.
func (b *Builder) run(ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, missing daemon.Missing) error {
	_, err := b.build(ctx, conn, targets, missing)
	return err
}

// build is run, with a result for each target and for what is built for them.
func (b *Builder) build(ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, missing daemon.Missing) ([]daemon.Result, error) {
	if missing.NarSize > b.options.MaxBytes {
		return nil, tooLarge(missing.NarSize, b.options.MaxBytes)
	}
	logrus.Infof("nix: building %d derivations and downloading %d store paths (%s)",
		len(missing.WillBuild), len(missing.WillSubstitute), units.HumanSize(float64(missing.DownloadSize)))
	said := remarks{tails: make(map[store.Path][]string)}
	results, err := conn.Build(ctx, withDependencies(targets, missing.WillBuild), said.add)
	return results, said.failure(results, err)
}

// withDependencies adds the derivations that are built for targets, so that each has a result of its own: of a target that fails with a dependency, Nix does
// not say which, nor why.
func withDependencies(targets []daemon.DerivedPath, building []store.Path) []daemon.DerivedPath {
	all := slices.Clone(targets)
	for _, drv := range building {
		if slices.ContainsFunc(targets, func(t daemon.DerivedPath) bool { return t.Path() == drv }) {
			continue
		}
		if target, err := daemon.Outputs(drv); err == nil {
			all = append(all, target)
		}
	}
	return all
}
