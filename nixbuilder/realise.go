package nixbuilder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// errNoStore is that no Nix daemon can be started, or none that has a store.
var errNoStore = errors.New("opening the Nix store")

func tooLarge(size, most int64) error {
	return status.Errorf(
		status.Denied, "the store paths of this image are %s together, %s are allowed",
		units.HumanSize(float64(size)), units.HumanSize(float64(most)),
	)
}

// means are how outputs are made.
type means int

const (
	asItArrives means = iota // what can all be downloaded is handed over while it arrives
	inPlace                  // it is downloaded, and built otherwise
	built                    // it was found out that not all can be downloaded
)

// realise makes the outputs of an order's packages valid: what is not in the store is downloaded
// where a binary cache has it, and built otherwise. They stay valid until the connection that it
// returns is put back. If they can all be downloaded, and that is how, it does not wait for that,
// and returns the download too, which the caller must close before. Images that Nix has nothing to
// do for do not wait for others.
func (b *Builder) realise(ctx context.Context, o order, how means) (*daemon.Conn, *download, error) {
	outputs := o.packages.outputs()
	conn, absent, err := b.hold(ctx, outputs)
	if err != nil || len(absent) == 0 {
		return conn, nil, err
	}
	b.daemons.Put(conn) // whoever waits holds none
	leave, err := b.enter(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	if conn, absent, err = b.hold(ctx, outputs); err != nil || len(absent) == 0 {
		leave()
		return conn, nil, err
	}
	coming, err := b.work(ctx, conn, o, absent, how, leave)
	if coming == nil {
		leave()
	}
	if err != nil {
		b.daemons.Put(conn)
		return nil, nil, err
	}
	return conn, coming, nil
}

// hold opens a connection that keeps paths from Nix's garbage collector, and tells which of them
// are not there.
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

// work has Nix make absent outputs, if that stays within the limits. Derivations are only written
// where binary caches do not have it all, or do not give what they say they have: Nix takes nothing
// that is not signed by a key that it trusts. What can all be downloaded is returned as a download,
// which calls ended, if that is how.
func (b *Builder) work(
	ctx context.Context, conn *daemon.Conn, o order, absent []store.Path, how means, ended func(),
) (*download, error) {
	said := newRemarks()
	if how != built {
		targets := make([]daemon.DerivedPath, len(absent))
		for i, p := range absent {
			targets[i] = daemon.Opaque(p)
		}
		missing, err := b.missing(ctx, conn, targets, said)
		if err != nil {
			return nil, err
		}
		if len(missing.Unknown) == 0 {
			if how == asItArrives {
				if coming, err := b.download(ctx, conn, o.packages.outputs(), targets, missing, ended); coming != nil ||
					err != nil {
					return coming, err
				}
			}
			failed := (*buildError)(nil)
			if _, err := b.run(ctx, conn, targets, missing, said); !errors.As(err, &failed) || failed.silent {
				return nil, explain(err)
			}
			logrus.Warnf("nix: building what can't be downloaded: %s", failed)
		}
	}
	if !b.options.Builds {
		return nil, unbuilt(strings.TrimSuffix(absent[0].Name(), ".drv"), said, how)
	}
	targets, err := b.derivations(ctx, conn, o.packages.with(absent), o.pinned, o.system)
	if err != nil {
		return nil, err
	}
	_, err = b.make(ctx, conn, targets, said)
	return nil, err
}

// unbuilt is that something is not there, where nothing is built. What binary caches may have
// another time may be asked for again.
func unbuilt(name string, said *remarks, how means) error {
	kind := status.Denied
	if how == built || len(said.archives)+len(said.unheard) > 0 {
		kind = status.Unavailable
	}
	return status.Errorf(kind, "%s would have to be built, and build.local of this registry is off%s", name, said.aside())
}

// missing is what Nix would have to do for targets. Its errors are for clients or for the operator.
// A connection that leaves binary caches out is not used again: they may answer the next one.
func (b *Builder) missing(
	ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, said *remarks,
) (daemon.Missing, error) {
	missing, err := conn.QueryMissing(ctx, targets, said.add)
	if len(said.leftOut) > 0 {
		conn.Retire()
	}
	return missing, explain(said.failure(nil, err))
}

// make has Nix download derivations' outputs or build them, if that stays within the limits. What a
// binary cache has lost, or damaged, is built. There is a result for each target, in their order,
// and for what is built for them. Its errors are for clients or for the operator.
func (b *Builder) make(
	ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, said *remarks,
) ([]daemon.Result, error) {
	missing, err := b.missing(ctx, conn, targets, said)
	if err != nil {
		return nil, err
	}
	results, err := b.run(ctx, conn, targets, missing, said)
	if failed := (*buildError)(nil); errors.As(err, &failed) && failed.withheld() && said.damaged() {
		logrus.Warnf("nix: building what can't be downloaded: %s", failed)
		if err := conn.Override(ctx, map[string]string{"fallback": "true"}); err != nil {
			return nil, err
		}
		results, err = b.run(ctx, conn, targets, missing, said)
		err = cmp.Or(err, conn.Override(ctx, nil))
	}
	return results, explain(err)
}

// derivations adds those of packages to the store, and returns what to ask of them.
func (b *Builder) derivations(
	ctx context.Context, conn *daemon.Conn, wanted packages, pinned source.Pinned, system string,
) ([]daemon.DerivedPath, error) {
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
	err = whole(pinned, func() error {
		_, err := b.evaluator.Instantiate(ctx, sourceOf(pinned), system, names)
		return err
	})
	if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
		return nil, faultOf(pinned, fault)
	}
	return targets, err
}

// run has Nix do its work, and logs what it says of binary caches. It has a result for each target,
// in their order, and for what is built for them. It fails with a *buildError if that is for what
// is built or downloaded to answer for.
func (b *Builder) run(
	ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, missing daemon.Missing,
	said *remarks,
) ([]daemon.Result, error) {
	if missing.NarSize > b.options.MaxBytes {
		return nil, tooLarge(missing.NarSize, b.options.MaxBytes)
	}
	logrus.Infof("nix: building %d derivations and downloading %d store paths (%s)",
		len(missing.WillBuild), len(missing.WillSubstitute), units.HumanSize(float64(missing.DownloadSize)))
	results, err := conn.Build(ctx, withDependencies(targets, missing.WillBuild), said.add)
	b.tellOfCaches(ctx, said)
	err = said.failure(results, err)
	if failed := (*buildError)(nil); errors.As(err, &failed) {
		if !b.options.LogToClients && len(failed.tail) > 0 {
			logrus.Warnf("nix: the last lines of %s: %s", failed.path, strings.Join(failed.tail, " | "))
			failed.tail = nil
		}
		for i, line := range failed.tail { // builders may know where their package set is
			failed.tail[i] = strings.ReplaceAll(line, b.options.CacheDir, "…")
		}
	}
	return results, err
}

// withDependencies adds the derivations that are built for targets, so that each has a result of
// its own: of a target that fails with a dependency, Nix does not say which, nor why.
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
