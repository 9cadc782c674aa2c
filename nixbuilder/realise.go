package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// logLines is how much of the log of a failed build its message has.
const logLines = 10

// builderEnd is how Nix puts the end of a builder.
var builderEnd = regexp.MustCompile(`failed (with exit code \d+|due to signal \d+ \([^)]*\))`)

// otherMachine is how Nix says that this machine can't build a derivation, for its platform or the features that it asks for.
var otherMachine = regexp.MustCompile(`a '([a-z0-9_-]+)' with features \{([^}]*)\} is required to build '/nix/store/[a-z0-9]{32}-([^']+)'`)

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
		failures, _, err := b.run(ctx, conn, targets, missing)
		if err != nil || len(failures) == 0 {
			return nil, err
		}
		logrus.Warnf("nix: building what can't be downloaded: %s", failures[0].Message)
	}
	if targets, err = b.derivations(ctx, conn, o.packages, absent, o.pinned, o.system); err != nil {
		return nil, err
	}
	if missing, err = conn.QueryMissing(ctx, targets); err != nil {
		return nil, err
	}
	failures, tails, err := b.run(ctx, conn, targets, missing)
	if err != nil || len(failures) == 0 {
		return nil, err
	}
	slices.SortStableFunc(failures, func(a, b daemon.Result) int { return blame(a) - blame(b) })
	return nil, explainBuild(failures[0], tails)
}

// derivations adds those of the packages with absent outputs to the store, and returns what to ask of them.
func (b *Builder) derivations(ctx context.Context, conn *daemon.Conn, wanted packages, absent []store.Path, pinned source.Pinned, system string) ([]daemon.DerivedPath, error) {
	var targets []daemon.DerivedPath
	var names []string
	var paths []store.Path
	for _, c := range wanted {
		if !slices.ContainsFunc(c.installed(), func(p store.Path) bool { return slices.Contains(absent, p) }) {
			continue
		}
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
		return nil, Errorf(Denied, "%v", fault)
	}
	return targets, err
}

// run has Nix do its work, and returns what failed, with the last lines of each builder's log.
func (b *Builder) run(ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, missing daemon.Missing) (failures []daemon.Result, tails map[store.Path][]string, err error) {
	if missing.NarSize > b.options.MaxBytes {
		return nil, nil, tooLarge(missing.NarSize, b.options.MaxBytes)
	}
	logrus.Infof("nix: building %d derivations and downloading %d store paths (%s)",
		len(missing.WillBuild), len(missing.WillSubstitute), units.HumanSize(float64(missing.DownloadSize)))
	said := remarks{tails: make(map[store.Path][]string)}
	results, err := conn.Build(ctx, targets, said.add)
	if needs := otherMachine.FindStringSubmatch(fmt.Sprint(err)); needs != nil {
		machine, name := needs[1], strings.TrimSuffix(needs[3], ".drv")
		if needs[2] != "" {
			machine += " with " + needs[2]
		}
		if len(said.unusable) > 0 { // it may be there when somebody asks again
			return nil, nil, fmt.Errorf("building %s, which needs a machine for %s: %s", name, machine, strings.Join(said.unusable, "; "))
		}
		return nil, nil, Errorf(Denied, "building %s needs a machine for %s: give Nix a binary cache that has it, a remote builder, or emulation", name, machine)
	}
	for _, result := range results {
		if !result.Status.Success() {
			failures = append(failures, said.complete(result))
		}
	}
	if len(failures) > 0 && len(said.lost) > 0 {
		return nil, nil, fmt.Errorf("building %s: lost the remote builder: %s", failures[0].Target.Path(), strings.Join(said.lost, "; "))
	}
	return failures, said.tails, err
}

// blame orders failures: those that name a cause come before those that came of it.
func blame(r daemon.Result) int {
	switch {
	case r.Status == daemon.TimedOut, r.Status == daemon.PermanentFailure, r.Status == daemon.OutputRejected:
		return 0
	case r.Message != "":
		return 1
	}
	return 2
}

func explainBuild(failure daemon.Result, tails map[store.Path][]string) error {
	drv := culprit(failure)
	name := strings.TrimSuffix(drv.Name(), ".drv")
	message := fmt.Sprintf("building %s failed: %s", name, failure.Status)
	if reason := builderEnd.FindString(failure.Message); reason != "" {
		message = fmt.Sprintf("building %s %s", name, reason)
	}
	switch failure.Status {
	case daemon.TimedOut:
		message = fmt.Sprintf("building %s took longer than this registry allows", name)
	case daemon.NoSubstituters:
		message = fmt.Sprintf("no binary cache has %s", name)
	case daemon.TransientFailure:
		return fmt.Errorf("building %s: %s: %s", drv, failure.Status, failure.Message)
	}
	if tail := tails[drv]; len(tail) > 0 {
		message += "; its last lines: " + strings.Join(tail, " | ")
	}
	if strings.HasSuffix(string(drv), ".drv") {
		message += "; on the registry's host, `nix-store --read-log " + string(drv) + "` has the whole log"
	}
	logrus.Warnf("nix: %s: %s", message, failure.Message)
	return &Error{Kind: Denied, Message: message}
}

// culprit is the derivation that a failure is about: a dependency's, where Nix names one.
func culprit(failure daemon.Result) store.Path {
	for word := range strings.FieldsFuncSeq(failure.Message, func(r rune) bool { return strings.ContainsRune(" '\"`;:,\n", r) }) {
		if p, err := store.ParsePath(word); err == nil && strings.HasSuffix(word, ".drv") {
			return p
		}
	}
	return failure.Target.Path()
}
