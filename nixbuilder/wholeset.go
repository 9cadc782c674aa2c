package nixbuilder

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	// setDepth is how deep sets within sets are searched for packages. A set may contain itself.
	setDepth = 8
	// setBatch is how many store paths are asked about at a time, over setConns connections:
	// binary caches answer one after the other.
	setBatch = 200
	setConns = 8
	// setReports is how often the log says how far a walk has come.
	setReports = 5 * time.Second
)

// LayoutOptions say what Layout looks at.
type LayoutOptions struct {
	// Names are packages, or sets of packages. None stands for the whole package set, with the sets
	// in it that say recurseForDerivations.
	Names []string
	// Build downloads what is not in the Nix store, and builds what no binary cache has.
	Build bool
}

// A Layout reports what came of laying out a package set.
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

// Layout computes the map of heads, by which store paths share layers, for a package set at once.
// It goes by the outputs that images of the packages would install, for all configured platforms,
// with all that they refer to. Entries that the map has stay. What is added depends on these and
// the closures alone. Nothing is downloaded but what binary caches say about paths, unless
// options.Build is set.
//
// It fails, and writes nothing, if a name is no package or set of packages, if the set can't be
// evaluated, or if a binary cache does not answer. Memory grows with the number of store paths,
// about 1.5 KB for each.
func (b *Builder) Layout(ctx context.Context, pinned source.Pinned, options LayoutOptions) (Layout, error) {
	release, err := b.source.Lease(ctx, pinned)
	if err != nil {
		return Layout{}, err
	}
	defer release()
	w := setWalk{builder: b, pinned: pinned, met: make(map[string]bool), said: time.Now()}
	for _, platform := range b.options.Platforms {
		if err := w.lookAt(ctx, platform, options); err != nil {
			return Layout{}, err
		}
	}
	closure, err := w.closure(ctx)
	if err != nil {
		return Layout{}, err
	}
	var roots []store.Path
	for _, outputs := range w.outputs {
		if slices.ContainsFunc(outputs, func(p store.Path) bool { _, ok := closure[p]; return !ok }) {
			w.made.Absent++
			continue
		}
		w.made.Packages++
		roots = append(roots, outputs...)
	}
	// Paths that only an absent package needs have lost what they go with. They are decided later.
	decided := store.Reachable(closure, roots)
	w.made.Paths = len(decided)
	w.made.Added, w.made.Known, err = b.layout.extend(ctx, decided)
	return w.made, err
}

// A setWalk goes through a whole package set.
type setWalk struct {
	builder *Builder
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

// lookAt finds the outputs of packages for one platform.
func (w *setWalk) lookAt(ctx context.Context, platform string, options LayoutOptions) (err error) {
	if w.system, err = SystemOf(platform); err != nil {
		return err
	}
	if _, w.denied, err = w.builder.find(ctx, w.pinned, limit.Asker{}, w.system, nil); err != nil {
		return err
	}
	if err := w.walk(ctx, options.Names); err != nil {
		return err
	}
	if err := w.tryCaches(ctx); err != nil {
		return err
	}
	recalled, err := w.builder.nix.Recall(ctx, w.builder.needed(job{packages: w.found}).Packages)
	if err != nil {
		return err
	}
	w.found = w.found.withOutputs(recalled)
	if options.Build {
		if err := w.realiseAll(ctx); err != nil {
			return err
		}
	}
	for _, c := range w.found {
		if c.Floats() {
			w.made.Absent++
		} else {
			w.outputs = append(w.outputs, c.installed())
		}
	}
	w.found = nil
	return nil
}

// tryCaches finds out with one package whether binary caches answer.
func (w *setWalk) tryCaches(ctx context.Context) error {
	i := slices.IndexFunc(w.found, func(c chosen) bool { return !c.Floats() })
	if i < 0 {
		return nil
	}
	return w.builder.nix.TryCaches(ctx, w.found[i].installed())
}

// walk finds the packages among names and in the sets among them. Without names, it searches the
// whole set.
func (w *setWalk) walk(ctx context.Context, names []string) error {
	level := names
	if len(names) == 0 {
		level = []string{""} // the whole set
	}
	looked := 0
	for depth := 0; len(level) > 0 && depth <= setDepth; depth++ {
		var below []string
		err := w.evaluate(ctx, level, func(name string, result eval.Result) error {
			looked++
			w.tell("nix: looked at %d names for %s, found %d packages", looked, w.system, len(w.found))
			switch failure := result.Failure; {
			case failure == nil:
				w.add(chosen{name: name, Package: *result.Package})
			case failure.Attributes != nil && (depth == 0 || failure.Recurse):
				for _, attribute := range failure.Attributes {
					below = append(below, strings.TrimPrefix(name+"."+attribute, "."))
				}
			case failure.Kind == eval.NotPackage && depth > 0: // functions, texts, sets of other things
			case depth == 0: // it was asked for
				return refusal([]string{name}, map[string]eval.Result{name: result}, w.pinned)
			default:
				w.made.Failed++
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

// add notes a package that images can have.
func (w *setWalk) add(c chosen) {
	key := records.Key(append([]string{string(c.Derivation)}, c.OutputsToInstall...)...)
	switch {
	case c.denied(w.builder.options.Policy, w.denied):
		w.made.Denied++
	case c.System != w.system && c.System != "builtin":
		w.made.Failed++
	case w.met[key]: // it has several names
	default:
		w.met[key] = true
		// There may be tens of thousands: keep no more than building takes.
		w.found = append(w.found, chosen{name: c.name, Package: eval.Package{
			Attr: c.Attr, Output: c.Output, Derivation: c.Derivation, Outputs: c.Outputs,
			OutputsToInstall: c.OutputsToInstall, System: c.System,
		}})
	}
}

// evaluate gives the result of each name to take, one at a time, in any order. A name is tried
// again alone if it ended the evaluation of others, or if others ended its own.
func (w *setWalk) evaluate(ctx context.Context, names []string, take func(string, eval.Result) error) error {
	chunks := slices.Collect(slices.Chunk(names, eval.MaxNames))
	for len(chunks) > 0 {
		var alone [][]string
		running, ctx := errgroup.WithContext(ctx)
		running.SetLimit(w.builder.options.Concurrency)
		for _, chunk := range chunks {
			running.Go(func() error {
				var results map[string]eval.Result
				err := whole(w.pinned, func() (err error) {
					results, err = w.builder.evaluator.Walk(ctx, sourceOf(w.pinned), w.system, chunk)
					return err
				})
				if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
					return faultOf(w.pinned, fault)
				}
				if err != nil {
					return err
				}
				w.mu.Lock()
				defer w.mu.Unlock()
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

// realiseAll builds or downloads the packages that were found. Those that fail are logged, and
// absent later.
func (w *setWalk) realiseAll(ctx context.Context) error {
	running, ctx := errgroup.WithContext(ctx)
	running.SetLimit(w.builder.options.Concurrency)
	for i, c := range w.found {
		running.Go(func() error {
			if err := w.realise(ctx, i); err != nil {
				if failure := (*status.Error)(nil); errors.As(err, &failure) {
					logrus.Warnf("nix: %s is left out: %s", c.attribute(), failure.Message)
					return nil
				}
				return err
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.tell("nix: %d of %d packages are there", i+1, len(w.found))
			return nil
		})
	}
	return running.Wait()
}

// realise builds or downloads one of the packages that were found.
func (w *setWalk) realise(ctx context.Context, i int) error {
	j := job{packages: packages{w.found[i]}, pinned: w.pinned, system: w.system}
	settled, err := w.builder.settle(ctx, j)
	if err != nil {
		return err
	}
	j.packages, w.found[i] = settled, settled[0]
	paths, err := w.builder.nix.Realise(ctx, w.builder.needed(j), nixstore.InPlace)
	if err != nil {
		return err
	}
	paths.Close()
	return nil
}

// closure is all that the outputs refer to, themselves included, as the Nix store or a binary cache
// knows it. Paths whose closure is not complete are left out.
func (w *setWalk) closure(ctx context.Context) (map[store.Path]store.PathInfo, error) {
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
	for _, outputs := range w.outputs {
		meet(outputs)
	}
	for len(next) > 0 {
		batches := slices.Collect(slices.Chunk(next, setBatch))
		next = nil
		running, ctx := errgroup.WithContext(ctx)
		running.SetLimit(setConns)
		for _, batch := range batches {
			running.Go(func() error {
				infos, err := w.builder.nix.Infos(ctx, batch)
				if err != nil {
					return err
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, info := range infos {
					info.Path = paths[info.Path]
					closure[info.Path] = info
					meet(info.References)
				}
				w.tell("nix: know %d of %d store paths", len(closure), len(paths))
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

// removeIncomplete removes paths that refer to a path that is not there, and those that refer to
// them, and so on.
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

// tell logs how far the walk has come, now and then.
func (w *setWalk) tell(format string, args ...any) {
	if time.Since(w.said) >= setReports {
		w.said = time.Now()
		logrus.Infof(format, args...)
	}
}
