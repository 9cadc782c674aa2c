package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	prepareimage "github.com/nixery-registry/nixery-registry/prepare-image"
)

// quickTime is how long an evaluation may keep others waiting. Ten names of a set like nixpkgs take
// half a second.
const quickTime = 3 * time.Second

// packagesCached is how much of packages' records is in memory, in bytes. One is about 1 KB.
const packagesCached = 16 << 20

// packagesKind is where they are in the State.
const packagesKind = "packages"

// resultFormat is part of every key of a package's record. It changes with what package eval
// believes. Records of the first were also of trees that were being removed.
const resultFormat = "3"

// A resultRecord is what a name stands for at a revision, which is in its key. It says the revision for
// Sweep; records from before do not.
type resultRecord struct {
	eval.Result
	Revision string `json:"revision,omitempty"`
}

// A resolver remembers what names stand for. It is safe for concurrent use.
//
// What clients ask for and nobody has is remembered in memory alone: clients can think of any number
// of names.
//
// A name is not evaluated twice at a time, unless that takes long: then others no longer wait for
// it, because another name of the same request may be the one that takes long.
type resolver struct {
	evaluator *eval.Evaluator
	// expressions is their hash, resultFormat, and features of Nix: results depend on how names are
	// looked up.
	expressions string
	records     *records.Table[resultRecord]
	lanes       *limit.Lanes  // for evaluations
	total       time.Duration // that one may take, with what is built for it
	own         []string      // names that the operator asks for, sorted
	evaluating  limit.Keyed   // by key
}

func newResolver(
	evaluator *eval.Evaluator, state records.State, concurrency int, total time.Duration, own []string,
) *resolver {
	return &resolver{
		evaluator:   evaluator,
		expressions: prepareimage.Hash() + resultFormat + evaluator.Features(),
		records:     records.NewTable[resultRecord](state, packagesKind, packagesCached),
		lanes:       limit.NewLanes(min(concurrency, max(2, runtime.GOMAXPROCS(0))), concurrency, quickTime),
		total:       total,
		own:         own,
	}
}

// find returns a result for every name. Those that are not known are evaluated in their order.
// Who is for whom it does.
func (r *resolver) find(
	ctx context.Context, pinned source.Pinned, who limit.Asker, system string, names []string,
) (map[string]eval.Result, error) {
	results := make(map[string]eval.Result, len(names))
	keys := make(map[string]string, len(names))
	wanted := make([]string, 0, len(names)) // each once
	for _, name := range names {
		if keys[name] == "" {
			keys[name] = r.key(pinned.Revision, system, name)
			wanted = append(wanted, name)
		}
	}
	for {
		unknown, err := r.recorded(ctx, wanted, keys, results)
		if err != nil || len(unknown) == 0 {
			return results, err
		}
		mine, release, others := r.claim(unknown, keys)
		if len(mine) > 0 {
			err := r.lanes.Do(ctx, who, func(ctx context.Context) error {
				return r.evaluate(ctx, pinned, system, mine, keys, results)
			}, release)
			release()
			if err != nil {
				return nil, err
			}
		}
		for _, other := range others {
			select {
			case <-other:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
}

// known returns the results of names that are recorded for a revision.
func (r *resolver) known(
	ctx context.Context, revision, system string, names []string,
) (map[string]eval.Result, error) {
	results, keys := make(map[string]eval.Result), make(map[string]string)
	for _, name := range names {
		keys[name] = r.key(revision, system, name)
	}
	_, err := r.recorded(ctx, names, keys, results)
	return results, err
}

func (r *resolver) key(revision, system, name string) string {
	return records.Key(revision, system, r.expressions, name)
}

// recorded adds the known results of names, and returns those that have none, in their order.
func (r *resolver) recorded(
	ctx context.Context, names []string, keys map[string]string, results map[string]eval.Result,
) (unknown []string, err error) {
	var missing []string
	for _, name := range names {
		if _, ok := results[name]; !ok {
			missing = append(missing, keys[name])
		}
	}
	found, err := r.records.GetAll(ctx, missing)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if result, ok := found[keys[name]]; ok {
			results[name] = result.Result
		} else if _, ok := results[name]; !ok {
			unknown = append(unknown, name)
		}
	}
	return unknown, nil
}

// claim divides names into those that the caller evaluates now, until it calls release, and those
// that somebody else does already.
func (r *resolver) claim(
	unknown []string, keys map[string]string,
) (mine []string, release func(), others []<-chan struct{}) {
	var releases []func()
	for _, name := range unknown {
		releaseName, other := r.evaluating.Claim(keys[name])
		switch {
		case releaseName == nil:
			others = append(others, other)
		case r.records.Cached(keys[name]): // since we looked
			releaseName()
		default:
			mine = append(mine, name)
			releases = append(releases, releaseName)
		}
	}
	return mine, func() {
		for _, releaseName := range releases {
			releaseName()
		}
	}, others
}

// evaluate adds results for names, of which some may be known by now.
func (r *resolver) evaluate(
	ctx context.Context, pinned source.Pinned, system string, mine []string, keys map[string]string,
	results map[string]eval.Result,
) error {
	unknown, err := r.recorded(ctx, mine, keys, results)
	if err != nil {
		return err
	}
	ctx, clock := limit.NewClock(ctx, r.total)
	defer clock.Stop()
	for names := range slices.Chunk(unknown, eval.MaxNames) {
		var found map[string]eval.Result
		err := whole(pinned, func() (err error) {
			found, err = r.evaluator.Evaluate(ctx, sourceOf(pinned), system, names)
			return err
		})
		if errors.Is(context.Cause(ctx), limit.ErrTime) {
			return tooLong(r.total)
		}
		if err != nil {
			return err
		}
		lasting := make(map[string]resultRecord, len(found))
		for name, result := range found {
			results[name] = result
			record := resultRecord{result, pinned.Revision}
			switch _, isOwn := slices.BinarySearch(r.own, name); {
			case !result.Cacheable():
			case result.Failure != nil && result.Failure.Kind == eval.NotFound && !isOwn:
				r.records.Recall(keys[name], record)
			default:
				lasting[keys[name]] = record
			}
		}
		if err := r.records.PutAll(ctx, lasting); err != nil {
			return fmt.Errorf("keeping what packages are: %w", err)
		}
	}
	return nil
}
