package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// maxLookups is how many look-ups are remembered. Clients can ask for any branch or channel that
// exists.
const maxLookups = 1000

// failureMemory is how long it is remembered that a remote could not be asked, or refresh if that is
// less. A remote that keeps silent for lookupTime is not asked all the time.
const failureMemory = 30 * time.Second

// doubtful is how old an answer may be for who doubts it: one question a second is enough.
const doubtful = time.Second

// lookupTime is how long a remote may take to say what a name stands for.
const lookupTime = 20 * time.Second

// lookups remember what each moving name stood for when the remote was last asked, also across
// restarts: without its remote, a source still serves what it served before. They are safe for
// concurrent use. Of one name, they ask one question at a time.
type lookups struct {
	file    string
	refresh time.Duration // how long an answer is believed
	most    time.Duration // that a question may take
	asking  singleflight.Group

	mu     sync.Mutex
	known  map[string]lookup
	since  time.Time            // answers from before are not believed: Doubt
	failed map[string]failure   // of known names, lately
	asked  map[string]time.Time // when the question that is being asked was begun
}

type lookup struct {
	Revision string    `json:"revision"`
	Asked    time.Time `json:"asked"`
}

type failure struct {
	err error
	at  time.Time
}

func newLookups(file string, refresh, most time.Duration) (*lookups, error) {
	l := &lookups{
		file: file, refresh: refresh, most: most,
		known: make(map[string]lookup), failed: make(map[string]failure), asked: make(map[string]time.Time),
	}
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(content, &l.known) != nil {
		l.known = make(map[string]lookup) // it is only a memory
	}
	return l, nil
}

// current returns what a name stands for if there is no need to ask. A commit stands for itself.
func (l *lookups) current(name string) (revision string, ok bool) {
	if commitTag.MatchString(name) {
		return name, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last, ok := l.known[name]
	return last.Revision, ok && l.believes(time.Now(), last, l.refresh)
}

// believes tells whether there is no need to ask again. The caller has the lock.
func (l *lookups) believes(now time.Time, answer lookup, refresh time.Duration) bool {
	return isWithin(now, answer.Asked, refresh) && !answer.Asked.Before(l.since)
}

// doubt has the next question about each name go to the remote, whatever was answered before.
func (l *lookups) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Now()
	clear(l.failed)
}

// isWithin tells whether a moment is no longer before now than a time. One that is yet to come,
// because the clock was ahead when it was written, is not.
func isWithin(now, moment time.Time, d time.Duration) bool {
	age := now.Sub(moment)
	return age >= 0 && age < d
}

// last returns what a name stood for when the remote was last asked.
func (l *lookups) last(name string) (revision string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, ok := l.known[name]
	return last.Revision, ok
}

// errSlow is why an answer is stale whose remote has not answered yet.
var errSlow = errors.New("the remote has not answered yet")

type patienceKey struct{}

// WithPatience is for callers of Source.Pin who have an older revision to go on with: they get that
// one, as stale, if a remote takes longer than d to say what a name stands for. The question goes on,
// and is answered for the next caller. Without it, Pin waits for the answer.
func WithPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

type doubtKey struct{}

// WithDoubt is for callers of Source.Pin to whom what a remote last said was of no use, such as a
// revision that does not evaluate: an answer that is older than a second is not believed.
func WithDoubt(ctx context.Context) context.Context { return context.WithValue(ctx, doubtKey{}, true) }

// Doubts tells whether a context is one of WithDoubt.
func Doubts(ctx context.Context) bool { return ctx.Value(doubtKey{}) != nil }

// get returns what a name stands for, as the remote said it no longer than refresh before the call.
// If the remote can't be asked, could not be a moment ago, or takes longer than the caller's
// patience, get returns the last answer, and stale says why.
func (l *lookups) get(
	ctx context.Context, name string, ask func(context.Context) (string, error),
) (revision string, stale, err error) {
	begun, refresh := time.Now(), l.refresh
	if Doubts(ctx) {
		refresh = min(refresh, doubtful)
	}
	for {
		l.mu.Lock()
		last, ok := l.known[name]
		believed := ok && l.believes(begun, last, refresh)
		failed := l.failed[name]
		asked, asking := l.asked[name]
		l.mu.Unlock()
		if believed {
			return last.Revision, nil, nil
		}
		if ok && isWithin(begun, failed.at, min(failureMemory, l.refresh)) {
			return last.Revision, failed.err, nil
		}
		answers := l.asking.DoChan(name, func() (any, error) { return l.ask(ctx, name, ask) })
		var slow <-chan time.Time // nil: there is no end of patience
		if patience, limited := ctx.Value(patienceKey{}).(time.Duration); ok && limited {
			if asking { // others have waited already
				patience -= time.Since(asked)
			}
			timer := time.NewTimer(patience)
			defer timer.Stop()
			slow = timer.C
		}
		select {
		case <-slow:
			return last.Revision, errSlow, nil
		case result := <-answers:
			err := result.Err
			if err != nil && ok && !errors.Is(err, ErrUnknownTag) && !errors.As(err, new(*NotAllowedError)) {
				return last.Revision, err, nil
			}
			got := result.Val.(lookup)
			l.mu.Lock()
			tooOld := got.Asked.Before(begun.Add(-refresh)) || got.Asked.Before(l.since)
			l.mu.Unlock()
			if err != nil || !tooOld {
				return got.Revision, nil, err
			}
		}
	}
}

// ask asks the remote, and remembers the answer or that there was none.
func (l *lookups) ask(
	ctx context.Context, name string, ask func(context.Context) (string, error),
) (lookup, error) {
	ctx, cancel := context.WithTimeoutCause(
		context.WithoutCancel(ctx), l.most, fmt.Errorf("there is no answer within %v", l.most),
	)
	defer cancel()
	answer := lookup{Asked: time.Now()}
	l.mu.Lock()
	l.asked[name] = answer.Asked
	l.mu.Unlock()
	var err error
	answer.Revision, err = ask(ctx)
	if err != nil && context.Cause(ctx) != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.asked, name)
	if err == nil {
		return answer, l.keep(name, answer)
	}
	if _, ok := l.known[name]; ok {
		l.failed[name] = failure{err, time.Now()}
	}
	return lookup{}, err
}

// keep adds an answer, in place of the oldest if there are maxLookups, and writes all of them,
// whole or not at all. The caller has the lock.
func (l *lookups) keep(name string, answer lookup) error {
	if _, ok := l.known[name]; !ok && len(l.known) >= maxLookups {
		older := func(a, b string) int { return l.known[a].Asked.Compare(l.known[b].Asked) }
		oldest := slices.MinFunc(slices.Collect(maps.Keys(l.known)), older)
		delete(l.known, oldest)
		delete(l.failed, oldest)
	}
	l.known[name] = answer
	delete(l.failed, name)
	content, err := json.Marshal(l.known)
	if err != nil {
		return err
	}
	if err := writeFile(l.file, content); err != nil {
		return fmt.Errorf("keeping what %s stands for: %w", name, err)
	}
	return nil
}

// writeFile replaces a file, whole or not at all.
func writeFile(name string, content []byte) error {
	staging, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(staging.Name()) }() // in vain once it was renamed
	_, err = staging.Write(content)
	if err := errors.Join(err, staging.Close()); err != nil {
		return err
	}
	return os.Rename(staging.Name(), name)
}
