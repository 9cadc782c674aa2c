package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	// surveyDepth is how deep sets within sets are searched for packages. A set may contain itself.
	surveyDepth = 8
	// surveyBatch is how many store paths are asked about at a time, over surveyConns connections:
	// binary caches answer one after the other.
	surveyBatch = 200
	surveyConns = 8
	// surveyReports is how often it is said how far a survey has come.
	surveyReports = 5 * time.Second
)

// LayoutOptions say what Layout looks at.
type LayoutOptions struct {
	// Names are packages, or sets of packages; none: the whole package set, with the sets in it
	// that say recurseForDerivations.
	Names []string
	// Build has what is neither in the Nix store nor in a binary cache built, and the rest
	// downloaded.
	Build bool
}

// A Layout is what came of laying out a package set.
type Layout struct {
	// Packages and Paths are how much was taken into account.
	Packages, Paths int
	// Added and Known are entries of the map of heads: those written now, and those that were there
	// and stay.
	Added, Known int
	// Absent packages have outputs that are neither in the Nix store nor in a binary cache; Failed
	// names can't be evaluated, or not for the platform; Denied packages are not to be served.
	Absent, Failed, Denied int
}

// Layout computes the map of heads, by which store paths share layers, for a package set at once:
// from the outputs that images of its packages would install, for all configured platforms, with
// all that they refer to. Entries that the map has stay. What is added depends on these and the
// closures alone. Nothing is downloaded but what binary caches say about paths, unless
// options.Build is set.
//
// It fails, and writes nothing, if a name is no package or set of packages, if the set can't be
// evaluated, or if a binary cache does not answer. Memory grows with the number of store paths,
// about 1.5 KB for each.
func (b *Builder) Layout(ctx context.Context, pinned source.Pinned, options LayoutOptions) (Layout, error) {
	release, err := b.source.Hold(ctx, pinned)
	if err != nil {
		return Layout{}, err
	}
	defer release()
	s := survey{Builder: b, pinned: pinned, met: make(map[string]bool), said: time.Now()}
	for _, platform := range b.options.Platforms {
		system, err := SystemOf(platform)
		if err != nil {
			return Layout{}, err
		}
		s.system = system
		_, s.denied, err = b.find(ctx, pinned, false, system, nil)
		if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
			return Layout{}, faultOf(pinned, fault)
		}
		if err != nil {
			return Layout{}, err
		}
		if err := s.walk(ctx, options.Names); err != nil {
			return Layout{}, err
		}
		if err := s.tryCaches(ctx); err != nil {
			return Layout{}, err
		}
		if err := s.recallAll(ctx); err != nil {
			return Layout{}, err
		}
		if options.Build {
			if err := s.realiseAll(ctx); err != nil {
				return Layout{}, err
			}
		}
		for _, c := range s.found {
			if c.Floats() {
				s.made.Absent++
			} else {
				s.outputs = append(s.outputs, c.installed())
			}
		}
		s.found = nil
	}
	closure, err := s.closure(ctx)
	if err != nil {
		return Layout{}, err
	}
	var roots []store.Path
	for _, outputs := range s.outputs {
		if slices.ContainsFunc(outputs, func(p store.Path) bool { _, ok := closure[p]; return !ok }) {
			s.made.Absent++
			continue
		}
		s.made.Packages++
		roots = append(roots, outputs...)
	}
	// What only an absent package needs has lost what it goes with, and is decided about later.
	decided := reachable(closure, roots)
	s.made.Paths = len(decided)
	s.made.Added, s.made.Known, err = b.layout.extend(ctx, decided)
	return s.made, err
}

// A survey goes through a package set.
type survey struct {
	*Builder
	pinned  source.Pinned
	system  string          // that is being looked at
	denied  denials         // for the system
	found   packages        // for the system
	outputs [][]store.Path  // of each package
	met     map[string]bool // packages, as several names may lead to one

	mu   sync.Mutex // of what follows and of found, while several evaluations run
	said time.Time  // when it was last told how far the survey has come
	made Layout
}

// walk finds the packages among names, or in the whole set if there are none, and in the sets among
// them.
func (s *survey) walk(ctx context.Context, names []string) error {
	level := names
	if len(names) == 0 {
		level = []string{""} // the whole set
	}
	looked := 0
	for depth := 0; len(level) > 0 && depth <= surveyDepth; depth++ {
		var below []string
		err := s.evaluate(ctx, level, func(name string, result eval.Result) error {
			looked++
			s.tell("nix: looked at %d names for %s, found %d packages", looked, s.system, len(s.found))
			switch failure := result.Failure; {
			case failure == nil:
				s.add(chosen{name: name, Package: *result.Package})
			case failure.Attributes != nil && (depth == 0 || failure.Recurse):
				for _, attribute := range failure.Attributes {
					below = append(below, strings.TrimPrefix(name+"."+attribute, "."))
				}
			case failure.Kind == eval.NotPackage && depth > 0: // functions, texts, sets of other things
			case depth == 0: // it was asked for
				return refusal([]string{name}, map[string]eval.Result{name: result}, s.pinned)
			default:
				s.made.Failed++
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.Sort(below)
		level = slices.DeleteFunc(below, func(name string) bool { return name == "" })
	}
	return nil
}

// add takes a package in, unless images can't have it.
func (s *survey) add(c chosen) {
	key := records.Key(append([]string{string(c.Derivation)}, c.OutputsToInstall...)...)
	switch {
	case c.denied(s.options.Policy, s.denied):
		s.made.Denied++
	case c.System != s.system && c.System != "builtin":
		s.made.Failed++
	case s.met[key]: // it has several names
	default:
		s.met[key] = true
		// What is kept of tens of thousands of them is what building takes.
		s.found = append(s.found, chosen{name: c.name, Package: eval.Package{
			Attr: c.Attr, Output: c.Output, Derivation: c.Derivation, Outputs: c.Outputs, OutputsToInstall: c.OutputsToInstall, System: c.System,
		}})
	}
}

// evaluate gives the result of each name to take, one at a time, in any order. A name that was in
// the way of others, or that others were in the way of, is tried again alone.
func (s *survey) evaluate(ctx context.Context, names []string, take func(string, eval.Result) error) error {
	chunks := slices.Collect(slices.Chunk(names, eval.MaxNames))
	for len(chunks) > 0 {
		var alone [][]string
		running, ctx := errgroup.WithContext(ctx)
		running.SetLimit(s.options.Concurrency)
		for _, chunk := range chunks {
			running.Go(func() error {
				var results map[string]eval.Result
				err := whole(s.pinned, func() (err error) {
					results, err = s.evaluator.Walk(ctx, sourceOf(s.pinned), s.system, chunk)
					return err
				})
				if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
					return faultOf(s.pinned, fault)
				}
				if err != nil {
					return err
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				for name, result := range results {
					if !result.Cacheable() && len(chunk) > 1 {
						alone = append(alone, []string{name})
					} else if err := take(name, result); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := running.Wait(); err != nil {
			return err
		}
		chunks = alone
	}
	return nil
}

// tryCaches finds out whether binary caches answer, with one path and one connection. Connections
// that are the first ever to ask a cache must not be several at a time: Nix 2.8 then stumbles over
// what it remembers of the cache.
func (s *survey) tryCaches(ctx context.Context) error {
	i := slices.IndexFunc(s.found, func(c chosen) bool { return !c.Floats() })
	if i < 0 {
		return nil
	}
	conn, err := s.daemons.Get(ctx)
	if err != nil {
		return fmt.Errorf("opening the Nix store: %w", err)
	}
	defer s.daemons.Put(conn)
	_, err = askCaches(ctx, conn, s.found[i].installed())
	return err
}

// recallAll finds out about packages that float what can be known without building.
func (s *survey) recallAll(ctx context.Context) error {
	for i, c := range s.found {
		if !c.Floats() {
			continue
		}
		paths, known, err := s.recall(ctx, packages{c})
		if err != nil {
			return err
		}
		if known {
			s.found[i] = packages{c}.at(paths)[0]
		}
	}
	return nil
}

// askCaches fails if a binary cache does not answer: what it would have said must not be missing in
// what is kept for good.
func askCaches(ctx context.Context, conn *daemon.Conn, paths []store.Path) ([]store.PathInfo, error) {
	var said []string
	infos, err := conn.SubstitutableInfos(
		ctx, paths, func(line daemon.LogLine) { said = append(said, strings.TrimSpace(line.Text)) },
	)
	if err == nil && len(said) > 0 {
		err = fmt.Errorf("asking binary caches about paths: %s", strings.Join(said, "; "))
	}
	// Nothing but what was asked: the daemon passes on what caches say.
	return slices.DeleteFunc(infos, func(info store.PathInfo) bool { return !slices.Contains(paths, info.Path) }), err
}

// realiseAll builds or downloads the packages that were found. Those that fail are logged, and
// absent later.
func (s *survey) realiseAll(ctx context.Context) error {
	running, ctx := errgroup.WithContext(ctx)
	running.SetLimit(s.options.Concurrency)
	for i, c := range s.found {
		running.Go(func() error {
			o := order{packages: packages{c}, pinned: s.pinned, system: s.system}
			settled, err := s.settle(ctx, o)
			var conn *daemon.Conn
			if err == nil {
				o.packages, s.found[i] = settled, settled[0]
				conn, _, err = s.realise(ctx, o, inPlace)
			}
			if failure := (*status.Error)(nil); errors.As(err, &failure) {
				logrus.Warnf("nix: %s is left out: %s", c.attribute(), failure.Message)
				return nil
			}
			if err != nil {
				return err
			}
			s.daemons.Put(conn)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tell("nix: %d of %d packages are there", i+1, len(s.found))
			return nil
		})
	}
	return running.Wait()
}

// closure is all that the outputs refer to, themselves included, as the Nix store or a binary cache
// knows it. What is not complete is left out.
func (s *survey) closure(ctx context.Context) (map[store.Path]store.PathInfo, error) {
	closure := make(map[store.Path]store.PathInfo)
	paths := make(map[store.Path]store.Path) // all that were met: equal texts share their bytes
	var next []store.Path
	meet := func(references []store.Path) {
		for i, p := range references {
			if same, ok := paths[p]; ok {
				references[i] = same
				continue
			}
			paths[p] = p
			next = append(next, p)
		}
	}
	for _, outputs := range s.outputs {
		meet(outputs)
	}
	for len(next) > 0 {
		batches := slices.Collect(slices.Chunk(next, surveyBatch))
		next = nil
		running, ctx := errgroup.WithContext(ctx)
		running.SetLimit(surveyConns)
		for _, batch := range batches {
			running.Go(func() error {
				infos, err := s.infos(ctx, batch)
				if err != nil {
					return err
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, info := range infos {
					info.Path = paths[info.Path]
					closure[info.Path] = info
					meet(info.References)
				}
				s.tell("nix: know %d of %d store paths", len(closure), len(paths))
				return nil
			})
		}
		if err := running.Wait(); err != nil {
			return nil, err
		}
	}
	removeIncomplete(closure)
	return closure, nil
}

// infos asks the Nix store about paths, and binary caches about those that it does not have.
func (s *survey) infos(ctx context.Context, wanted []store.Path) ([]store.PathInfo, error) {
	conn, err := s.daemons.Get(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the Nix store: %w", err)
	}
	defer s.daemons.Put(conn)
	infos, err := conn.Infos(ctx, wanted)
	if err != nil || len(infos) == len(wanted) {
		return infos, err
	}
	there := make(map[store.Path]bool, len(infos))
	for _, info := range infos {
		there[info.Path] = true
	}
	absent := slices.DeleteFunc(slices.Clone(wanted), func(p store.Path) bool { return there[p] })
	substitutable, err := askCaches(ctx, conn, absent)
	return append(infos, substitutable...), err
}

// removeIncomplete removes paths that refer to what is not there, and so on.
func removeIncomplete(closure map[store.Path]store.PathInfo) {
	referrers := make(map[store.Path][]store.Path)
	var missing []store.Path
	for _, info := range closure {
		for _, r := range info.References {
			referrers[r] = append(referrers[r], info.Path)
			if _, ok := closure[r]; !ok {
				missing = append(missing, r)
			}
		}
	}
	for len(missing) > 0 {
		last := missing[len(missing)-1]
		missing = missing[:len(missing)-1]
		for _, referrer := range referrers[last] {
			if _, ok := closure[referrer]; ok {
				delete(closure, referrer)
				missing = append(missing, referrer)
			}
		}
	}
}

// reachable is what roots refer to, themselves included, in a closure.
func reachable(closure map[store.Path]store.PathInfo, roots []store.Path) (infos []store.PathInfo) {
	seen := make(map[store.Path]bool)
	for next := slices.Clone(roots); len(next) > 0; {
		p := next[len(next)-1]
		next = next[:len(next)-1]
		if !seen[p] {
			seen[p] = true
			infos = append(infos, closure[p])
			next = append(next, closure[p].References...)
		}
	}
	return infos
}

// tell logs how far the survey has come, now and then.
func (s *survey) tell(format string, args ...any) {
	if time.Since(s.said) >= surveyReports {
		s.said = time.Now()
		logrus.Infof(format, args...)
	}
}
