package middleware

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

const (
	// failureMemory is how long a failure is remembered that a retry can't change, or only with
	// another build. Clients ask twice (HEAD, then GET).
	failureMemory = time.Minute
	// failuresKept bounds that memory.
	failuresKept = 10_000
)

// doubtMemory is how long the package set is looked up at each pull of an image that could not be
// made: who mends a package tries again.
const doubtMemory = 10 * time.Minute

// errHold: the image is still being built, and the client shall ask again now.
var errHold = errors.New("the image is being built")

// A buildError is why a build ended, or goes on, and which one it is.
type buildError struct {
	build string // its id, which is in the log
	error
}

func (e buildError) Unwrap() error { return e.error }

// A job is work for clients: to find out what a tag stands for, or to build an image. It goes on
// when the client that asked for it leaves.
type job struct {
	id     string        // in the log, and for clients to tell the operator
	done   chan struct{} // closed at the end
	cancel context.CancelFunc

	// Read after done.
	pinned source.Pinned // what the tag stands for
	err    error
}

// work is what a job does.
type work func(context.Context) (source.Pinned, error)

// jobs are the jobs under way, one for each key at a time. They are safe for concurrent use.
type jobs struct {
	most, perClient int

	mu       sync.Mutex
	running  map[string]*job
	clients  map[string]int // builds that each client started and that still run
	byClient int            // those of tags that clients chose
	failed   *expirable.LRU[string, error]
	// doubted are images that a revision did not give. A newer one, which has been mended, may be
	// there.
	doubted *expirable.LRU[string, struct{}]
}

func newJobs(most, perClient int) *jobs {
	return &jobs{
		most: most, perClient: perClient,
		running: make(map[string]*job),
		clients: make(map[string]int),
		failed:  expirable.NewLRU[string, error](failuresKept, nil, failureMemory),
		doubted: expirable.NewLRU[string, struct{}](failuresKept, nil, doubtMemory),
	}
}

// start returns the job of a key: the one under way, one that failed less than failureMemory ago,
// or a new one that does the work. Ctx gives values to the new one, its end does not matter. The
// error is a *status.Error of kind Busy.
func (j *jobs) start(ctx context.Context, key string, who limit.Asker, do work) (*job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if running, ok := j.running[key]; ok {
		return running, nil
	}
	if err, ok := j.failed.Get(key); ok {
		failed := &job{done: make(chan struct{}), err: err}
		close(failed.done)
		return failed, nil
	}
	if err := j.refusal(who); err != nil {
		return nil, err
	}
	j.clients[who.Client]++
	if who.ByClient {
		j.byClient++
	}
	id := newBuildID()
	j.running[key] = run(ctx, func(ctx context.Context) (source.Pinned, error) {
		pinned, err := safely(ctx, do)
		if err != nil {
			err = buildError{id, err}
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.running, key)
		if j.clients[who.Client]--; j.clients[who.Client] == 0 {
			delete(j.clients, who.Client)
		}
		if who.ByClient {
			j.byClient--
		}
		if status.Costly(err) {
			j.failed.Add(key, err)
		}
		return pinned, err
	})
	j.running[key].id = id
	return j.running[key], nil
}

// newBuildID makes an id that is short enough to be read out.
func newBuildID() string { return strings.ToLower(rand.Text()[:8]) }

// refusal tells why there is no room for more work, nil if there is.
func (j *jobs) refusal(who limit.Asker) error {
	others := len(j.running) - j.clients[own]
	switch {
	case who.Client == own:
		return nil
	case others >= j.most:
		return status.Errorf(status.Busy, "%d images are being built or wait for it: try again later", others)
	case who.ByClient && j.byClient >= limit.ClientShare(j.most):
		return status.Errorf(
			status.Busy,
			"%d images of revisions that clients chose are being built or wait for it: try again later",
			j.byClient,
		)
	case j.clients[who.Client] >= j.perClient:
		return status.Errorf(
			status.Busy, "%d images are being built for you: try again when one is done", j.perClient,
		)
	}
	return nil
}

// close ends the jobs under way, and returns when they have ended, or ctx has.
func (j *jobs) close(ctx context.Context) {
	j.mu.Lock()
	running := slices.Collect(maps.Values(j.running))
	j.mu.Unlock()
	for _, ending := range running {
		ending.cancel()
	}
	for _, ending := range running {
		select {
		case <-ending.done:
		case <-ctx.Done():
			return
		}
	}
}

// run begins a job that is not one of jobs. Ctx gives it values, its end does not matter.
func run(ctx context.Context, do work) *job {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	begun := &job{done: make(chan struct{}), cancel: cancel}
	go func() {
		defer close(begun.done)
		defer cancel()
		begun.pinned, begun.err = safely(ctx, do)
	}()
	return begun
}

// await returns how the job ended, or errHold if it goes on when the client's hold is over.
func (j *job) await(ctx context.Context, hold <-chan time.Time) (source.Pinned, error) {
	select {
	case <-j.done:
		return j.pinned, j.err
	case <-ctx.Done():
		return source.Pinned{}, fmt.Errorf("the client left: %w", context.Cause(ctx))
	case <-hold:
		return source.Pinned{}, buildError{j.id, errHold}
	}
}

// safely turns a panic into an error: one image must not take the registry down.
func safely(ctx context.Context, do work) (pinned source.Pinned, err error) {
	defer func() {
		if p := recover(); p != nil {
			logrus.Errorf("nix: panic while building: %v\n%s", p, debug.Stack())
			err = fmt.Errorf("panic while building: %v", p)
		}
	}()
	return do(ctx)
}
