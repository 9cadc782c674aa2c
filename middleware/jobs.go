package middleware

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
)

const (
	// failureMemory is how long a failure is remembered that asking again cannot change, or only by
	// another build. Clients ask twice (HEAD, then GET).
	failureMemory = time.Minute
	// failuresKept bounds that memory.
	failuresKept = 10_000
	// endTime is how long the end waits for jobs, which may wait for a storage that does not
	// answer.
	endTime = 10 * time.Second
)

// A job is work for clients, such as an image being built. It goes on when the client that asked
// for it leaves.
type job struct {
	done   chan struct{} // closed at the end
	err    error         // read after done
	cancel context.CancelFunc
}

// jobs are those under way, one for each key at a time. It is safe for concurrent use.
type jobs struct {
	most, perClient int

	mu       sync.Mutex
	running  map[string]*job
	clients  map[string]int // builds that each client started and that still run
	byClient int            // those of tags that clients chose
	failed   *expirable.LRU[string, error]
}

func newJobs(most, perClient int) *jobs {
	return &jobs{
		most: most, perClient: perClient,
		running: make(map[string]*job),
		clients: make(map[string]int),
		failed:  expirable.NewLRU[string, error](failuresKept, nil, failureMemory),
	}
}

// An asker is who has work done.
type asker struct {
	client string
	// byClient says that the client chose the tag, not the operator. Such work takes
	// nixbuilder.ClientShare of the room.
	byClient bool
}

// own is the client of what no client asked for. Its jobs are not limited here, and take no room in
// the queue from clients. No user and no address has this name.
const own = "\x00own"

// start returns the job of a key: the one under way, a lately failed one, or a new one that runs
// build. Ctx gives values to the new one, its end does not matter. The error is a *nixbuilder.Error
// of kind Busy.
func (j *jobs) start(ctx context.Context, key string, who asker, build func(context.Context) error) (*job, error) {
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
	j.clients[who.client]++
	if who.byClient {
		j.byClient++
	}
	j.running[key] = run(ctx, func(ctx context.Context) error {
		err := safely(ctx, build)
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.running, key)
		if j.clients[who.client]--; j.clients[who.client] == 0 {
			delete(j.clients, who.client)
		}
		if who.byClient {
			j.byClient--
		}
		if nixbuilder.Costly(err) {
			j.failed.Add(key, err)
		}
		return err
	})
	return j.running[key], nil
}

// refusal is why there is no room for more work, nil if there is.
func (j *jobs) refusal(who asker) error {
	others := len(j.running) - j.clients[own]
	switch {
	case who.client == own:
		return nil
	case others >= j.most:
		return nixbuilder.Errorf(nixbuilder.Busy, "%d images are being built or wait for it: try again later", others)
	case who.byClient && j.byClient >= nixbuilder.ClientShare(j.most):
		return nixbuilder.Errorf(
			nixbuilder.Busy,
			"%d images of revisions that clients chose are being built or wait for it: try again later",
			j.byClient,
		)
	case j.clients[who.client] >= j.perClient:
		return nixbuilder.Errorf(
			nixbuilder.Busy, "%d images are being built for you: try again when one is done", j.perClient,
		)
	}
	return nil
}

// close ends the jobs under way, and returns when they have ended, or when that takes long.
func (j *jobs) close() {
	j.mu.Lock()
	running := slices.Collect(maps.Values(j.running))
	j.mu.Unlock()
	for _, ending := range running {
		ending.cancel()
	}
	late := time.After(endTime)
	for _, ending := range running {
		select {
		case <-ending.done:
		case <-late:
			return
		}
	}
}

// run begins work that goes on without its client: ctx gives it values alone.
func run(ctx context.Context, work func(context.Context) error) *job {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	begun := &job{done: make(chan struct{}), cancel: cancel}
	go func() {
		defer close(begun.done)
		defer cancel()
		begun.err = safely(ctx, work)
	}()
	return begun
}

// await returns how the job ended, or errHold if it goes on when the hold is over.
func (j *job) await(ctx context.Context, hold <-chan time.Time) error {
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		return fmt.Errorf("the client left: %w", context.Cause(ctx))
	case <-hold:
		return errHold
	}
}

// safely turns a panic into an error: one image must not take the registry down.
func safely(ctx context.Context, work func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			logrus.Errorf("nix: panic while building: %v\n%s", p, debug.Stack())
			err = fmt.Errorf("panic while building: %v", p)
		}
	}()
	return work(ctx)
}
