package collection

import (
	"context"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
)

const (
	// sightAge is how old a sight may be for a write to begin.
	sightAge = 20 * time.Second
	// stepAge is how old it may be when the write is done. If it is older, the write looks again.
	stepAge = 40 * time.Second
	// settleTime is how long a run waits until every write knows of it, or looks again.
	settleTime = time.Minute
	// watchEvery is how often a registry looks that collects.
	watchEvery = 15 * time.Second
	// suspectsKept bounds the digests that may have been deleted and that caches of descriptors may
	// still have: some 40 bytes each.
	suspectsKept = 500_000
)

// A view is what a process believes of the runs of all processes. It is safe for concurrent use.
type view struct {
	storage driver.StorageDriver
	now     func() time.Time
	mu      sync.Mutex // while looking
	seen    atomic.Pointer[sight]
}

// A sight is never changed.
type sight struct {
	readAt time.Time // when the look began
	// quietSince is when it was first seen that a sweep is over. What was begun before may have seen
	// blobs that are deleted.
	quietSince time.Time
	runs       map[string]*run
	last       int // the highest number of a run
	// live are the runs that are not over.
	live []*run
	// suspects are the candidates of sweeps that are over.
	suspects set
	// distrust says that there was a sweep whose candidates are not known: any may be deleted.
	distrust bool
}

// A run as it was seen. It is never changed.
type run struct {
	name  string
	phase phase
	swept bool
	lasts time.Duration
	since time.Time // when the phase was seen first
	has   set       // empty when the run is over
	// spared has the digests that this process has spared, as keys of type digest.Digest.
	spared *sync.Map
}

// atLeast is how much time has gone by. A clock that was set, or stood still while the machine was
// suspended, does not make it less.
func atLeast(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// atMost is the same, and does not make it more.
func atMost(since, now time.Time) time.Duration {
	return min(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// current returns a sight that is no older than sightAge, reading the storage if need be.
func (v *view) current(ctx context.Context) (*sight, error) {
	if s := v.seen.Load(); s != nil && atLeast(s.readAt, v.now()) <= sightAge {
		return s, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.seen.Load(); s != nil && atLeast(s.readAt, v.now()) <= sightAge {
		return s, nil // another one has looked
	}
	return v.look(ctx)
}

// watch looks at once, whatever was seen.
func (v *view) watch(ctx context.Context) (*sight, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.look(ctx)
}

// look reads the records of runs: one call while there is none under way. It gives up after sightAge.
// The caller holds mu.
func (v *view) look(ctx context.Context) (*sight, error) {
	ctx, cancel := context.WithTimeout(ctx, sightAge)
	defer cancel()
	before := v.seen.Load()
	if before == nil {
		before = &sight{}
	}
	next := &sight{
		readAt: v.now(), quietSince: before.quietSince, runs: make(map[string]*run), last: before.last,
		suspects: before.suspects, distrust: before.distrust,
	}
	names, err := runsOf(ctx, v.storage)
	if err != nil {
		return nil, err
	}
	disturbed := before.quietSince.IsZero()
	numbers := make(map[int]bool)
	for _, name := range names {
		number := numberOf(name)
		numbers[number] = true
		next.last = max(next.last, number)
		was := before.runs[name]
		is, err := v.runOf(ctx, name, was)
		if err != nil {
			return nil, err
		}
		next.runs[name] = is
		if is.phase != ended {
			next.live = append(next.live, is)
		}
		if is.phase == sweeping || is.swept && (was == nil || was.phase != ended) {
			disturbed = true
		}
		if is.swept && (was == nil || was.phase != ended) {
			next.suspect(was, before.readAt.IsZero())
		}
	}
	for number := before.last + 1; number < next.last && !before.readAt.IsZero(); number++ {
		if !numbers[number] { // it came and went
			disturbed, next.distrust = true, true
		}
	}
	if disturbed {
		next.quietSince = v.now()
	}
	v.seen.Store(next)
	return next, nil
}

// runOf reads a run, unless it was over already.
func (v *view) runOf(ctx context.Context, name string, was *run) (*run, error) {
	if was != nil && was.phase == ended {
		return was, nil
	}
	var record runRecord
	there, err := read(ctx, v.storage, path.Join(runsDir, name), &record)
	if err != nil {
		return nil, err
	}
	if !there { // removed since
		record = runRecord{Phase: ended, Swept: true}
	}
	is := &run{
		name: name, phase: record.Phase, swept: record.Swept, lasts: record.lasts(), since: v.now(),
		spared: &sync.Map{},
	}
	if was != nil {
		is.spared = was.spared
		if was.phase == is.phase {
			is.since = was.since
		}
	}
	if is.phase != ended && (is.lasts <= 0 || atMost(is.since, v.now()) > is.lasts) {
		is.phase, is.swept = ended, record.Phase == sweeping // it has died
	}
	switch {
	case is.phase == ended:
	case was != nil:
		is.has = was.has
	default:
		var of list
		if _, err := read(ctx, v.storage, path.Join(listsDir, name), &of); err != nil {
			return nil, err
		}
		is.has = of.digests()
	}
	return is, nil
}

// suspect is called when a sweep is over: its candidates may be deleted. A process that has just
// begun has cached nothing of them.
func (s *sight) suspect(was *run, begins bool) {
	switch {
	case begins:
	case was == nil || len(s.suspects)+len(was.has) > suspectsKept:
		if !s.distrust {
			logrus.Info("nix: caches of blob descriptors are not believed until the next start: " +
				"blobs were collected, and this registry did not see which")
		}
		s.distrust, s.suspects = true, nil
	default:
		all := make(set, len(s.suspects)+len(was.has))
		for k := range s.suspects {
			all[k] = struct{}{}
		}
		for k := range was.has {
			all[k] = struct{}{}
		}
		s.suspects = all
	}
}

// permits tells whether a write may be made by what was begun at a time.
func (s *sight) permits(begun time.Time) error {
	for _, run := range s.live {
		if run.phase == sweeping {
			return ErrPaused
		}
	}
	if begun.Before(s.quietSince) {
		return ErrPaused
	}
	return nil
}

// touch spares a digest in all runs that condemn it. It is late where a sweep is under way: what
// the storage has then is not there for sure.
func (v *view) touch(ctx context.Context, s *sight, dgst digest.Digest) (late bool, err error) {
	for _, run := range s.live {
		if !run.has.has(dgst) {
			continue
		}
		if run.phase == sweeping {
			late = true
			continue
		}
		if _, ok := run.spared.Load(dgst); ok {
			continue
		}
		if err := v.storage.PutContent(ctx, sparedFile(run.name, dgst), []byte{'\n'}); err != nil {
			return late, fmt.Errorf("sparing %s: %w", dgst, err)
		}
		run.spared.Store(dgst, nil)
	}
	return late, nil
}
