package nixstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Means are how outputs are made valid.
type Means int

const (
	// AsItArrives hands over what can all be downloaded while it arrives.
	AsItArrives Means = iota
	// InPlace waits for what is downloaded, and builds what can't be.
	InPlace
	// Build builds: it was found out that not all can be downloaded.
	Build
)

// Paths are the store paths of an image. They stay in the store until Close.
type Paths struct {
	store    *Store
	conn     *daemon.Conn
	download *download        // nil: all of them are there
	closure  []store.PathInfo // if download is nil
}

// Closure is all that the image's packages refer to, themselves included, sorted by path.
func (p *Paths) Closure() []store.PathInfo {
	if p.download != nil {
		return p.download.closure
	}
	return p.closure
}

// Arriving tells whether some of them are still being downloaded.
func (p *Paths) Arriving() bool { return p.download != nil }

// Await returns when some of them are there. The error is ErrNotDownloaded if binary caches do not
// give what they said they have.
func (p *Paths) Await(ctx context.Context, paths []store.Path) error {
	if p.download == nil {
		return nil
	}
	return p.download.await(ctx, paths)
}

// Close lets the paths be collected, and ends what is being downloaded.
func (p *Paths) Close() {
	if p.download != nil {
		p.download.close()
	}
	p.store.daemons.Put(p.conn)
}

// Realise makes the outputs of packages valid: what is not in the store is downloaded where a
// binary cache has it, and built otherwise. Images that Nix has nothing to do for do not wait for
// others.
func (s *Store) Realise(ctx context.Context, wanted Wanted, how Means) (*Paths, error) {
	conn, coming, err := s.realise(ctx, wanted, how)
	if err != nil {
		return nil, err
	}
	paths := &Paths{store: s, conn: conn, download: coming}
	if coming == nil {
		if paths.closure, err = s.closures.of(ctx, conn, wanted.outputs()); err != nil {
			paths.Close()
			return nil, err
		}
	}
	return paths, nil
}

func (s *Store) realise(ctx context.Context, wanted Wanted, how Means) (*daemon.Conn, *download, error) {
	outputs, log := wanted.outputs(), s.newBuildLog()
	conn, absent, err := s.openRooted(ctx, outputs)
	if err != nil || len(absent) == 0 {
		return conn, nil, err
	}
	s.daemons.Put(conn) // whoever waits holds none
	s.consultShare(ctx)
	if how != Build {
		conn, coming, err := s.inTurn(ctx, s.downloading, wanted, func(
			conn *daemon.Conn, absent []store.Path, ended func(),
		) (*download, error) {
			return s.fetchAll(ctx, conn, outputs, absent, how, log, ended)
		})
		if !errors.Is(err, errNotFetched) {
			return conn, coming, err
		}
	}
	return s.inTurn(ctx, s.building, wanted, func(
		conn *daemon.Conn, absent []store.Path, _ func(),
	) (*download, error) {
		return nil, s.build(ctx, conn, wanted, absent, how, log)
	})
}

// inTurn waits until it is an image's turn to have Nix build or download for it, and works on what
// is absent by then. Work may return a download, which calls ended.
func (s *Store) inTurn(
	ctx context.Context, turns *limit.Shared, wanted Wanted,
	work func(conn *daemon.Conn, absent []store.Path, ended func()) (*download, error),
) (conn *daemon.Conn, coming *download, err error) {
	release, err := acquire(ctx, turns, wanted)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if coming == nil {
			release()
		}
	}()
	conn, absent, err := s.openRooted(ctx, wanted.outputs())
	if err != nil || len(absent) == 0 {
		return conn, nil, err
	}
	if coming, err = work(conn, absent, release); err != nil {
		s.daemons.Put(conn)
		return nil, nil, err
	}
	return conn, coming, nil
}

// acquire waits for an image's turn, while its clock stands still.
func acquire(ctx context.Context, turns *limit.Shared, wanted Wanted) (release func(), err error) {
	err = wanted.Clock.Wait(func() (err error) {
		metrics.Queued.Inc()
		defer metrics.Queued.Dec()
		release, err = turns.Acquire(ctx, wanted.Who)
		return err
	})
	return release, err
}

// errNotFetched means that binary caches do not have all of what is absent, or do not give what they
// say they have: Nix takes nothing that is not signed by a key that it trusts.
var errNotFetched = errors.New("not all of it can be downloaded")

// fetchAll has Nix download absent outputs, if it can download them all and they stay within the
// limits. With AsItArrives, they are returned as a download, which calls ended.
//
// Images for which this is enough do not wait behind those that are built.
func (s *Store) fetchAll(
	ctx context.Context, conn *daemon.Conn, outputs, absent []store.Path, how Means, log *buildLog, ended func(),
) (*download, error) {
	targets := make([]daemon.DerivedPath, len(absent))
	for i, p := range absent {
		targets[i] = daemon.Opaque(p)
	}
	missing, err := s.missing(ctx, conn, targets, log)
	if err != nil {
		return nil, err
	}
	if len(missing.Unknown) > 0 {
		return nil, errNotFetched
	}
	if how == AsItArrives {
		coming, err := s.startDownload(ctx, conn, outputs, targets, missing, ended)
		if coming != nil || err != nil {
			return coming, err
		}
	}
	_, err = s.run(ctx, conn, targets, missing, log)
	if failed := (*buildError)(nil); errors.As(err, &failed) && !failed.silent {
		logrus.Warnf("nix: building what can't be downloaded: %s", failed)
		return nil, errNotFetched
	}
	return nil, explain(err)
}

// build has Nix make absent outputs, if that stays within the limits. Derivations are only written
// here, where binary caches are not enough. Log has what was said when they were asked.
func (s *Store) build(
	ctx context.Context, conn *daemon.Conn, wanted Wanted, absent []store.Path, how Means, log *buildLog,
) error {
	if !s.options.Builds {
		return unbuilt(strings.TrimSuffix(absent[0].Name(), ".drv"), log, how)
	}
	targets, err := s.derivations(ctx, conn, wanted, wanted.with(absent))
	if err != nil {
		return err
	}
	_, err = s.make(ctx, conn, targets, log)
	return err
}

// unbuilt is what clients are told of something that is not there, where nothing is built. What
// binary caches may have another time may be asked for again.
func unbuilt(name string, log *buildLog, how Means) error {
	kind := status.Denied
	if how == Build || len(log.archives)+len(log.unheard) > 0 {
		kind = status.Unavailable
	}
	return status.Errorf(
		kind, "%s would have to be built, and build.local of this registry is off%s", name, log.aside(),
	)
}

// missing asks what Nix would have to do for targets. Its errors are for clients or for the
// operator. A connection that leaves binary caches out is not used again: they may answer the next
// one.
func (s *Store) missing(
	ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, log *buildLog,
) (daemon.Missing, error) {
	missing, err := conn.QueryMissing(ctx, targets, log.add)
	s.leave(log)
	if len(log.leftOut) > 0 || log.share != "" {
		conn.Retire()
	}
	return missing, explain(log.failure(nil, err))
}

// make has Nix download derivations' outputs or build them, if that stays within the limits. What a
// binary cache has lost, or damaged, is built. There is a result for each target, in their order,
// and for what is built for them. Its errors are for clients or for the operator.
func (s *Store) make(
	ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, log *buildLog,
) ([]daemon.Result, error) {
	missing, err := s.missing(ctx, conn, targets, log)
	if err != nil {
		return nil, err
	}
	results, err := s.run(ctx, conn, targets, missing, log)
	if failed := (*buildError)(nil); errors.As(err, &failed) && failed.withheld() && log.damaged() {
		logrus.Warnf("nix: building what can't be downloaded: %s", failed)
		if err := conn.Override(ctx, map[string]string{"fallback": "true"}); err != nil {
			return nil, err
		}
		results, err = s.run(ctx, conn, targets, missing, log)
		err = cmp.Or(err, conn.Override(ctx, nil))
	}
	return results, explain(err)
}

// derivations has those of packages written into the store, and returns what to ask of them.
func (s *Store) derivations(
	ctx context.Context, conn *daemon.Conn, wanted Wanted, packages []Package,
) ([]daemon.DerivedPath, error) {
	var targets []daemon.DerivedPath
	var names []string
	var paths []store.Path
	for _, p := range packages {
		target, err := daemon.Outputs(p.Derivation, p.Install...)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target)
		names = append(names, p.Name)
		paths = append(paths, p.Derivation)
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
	return targets, wanted.Instantiate(ctx, names)
}

// run has Nix do its work, and logs what it says of binary caches. It has a result for each target,
// in their order, and for what is built for them. It fails with a *buildError if what is built or
// downloaded has to answer for that.
func (s *Store) run(
	ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, missing daemon.Missing, log *buildLog,
) ([]daemon.Result, error) {
	if missing.NarSize > s.options.MaxBytes {
		return nil, TooLarge(missing.NarSize, s.options.MaxBytes)
	}
	logrus.Infof(
		"nix: building %d derivations and downloading %d store paths (%s)",
		len(missing.WillBuild), len(missing.WillSubstitute), units.HumanSize(float64(missing.DownloadSize)),
	)
	done := s.expect(missing.WillBuild)
	results, err := conn.Build(ctx, withDependencies(targets, missing.WillBuild), log.add)
	s.collector.grow()
	done(results)
	s.leave(log)
	s.logCaches(ctx, log)
	err = log.failure(results, err)
	if failed := (*buildError)(nil); errors.As(err, &failed) {
		if !s.options.LogToClients && len(failed.tail) > 0 {
			logrus.Warnf("nix: the last lines of %s: %s", failed.path, strings.Join(failed.tail, " | "))
			failed.tail = nil
		}
		for i, line := range failed.tail { // builders may know where their package set is
			failed.tail[i] = strings.ReplaceAll(line, s.options.CacheDir, "…")
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
