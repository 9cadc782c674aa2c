package lease

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// times are those of leases. Tests have shorter ones.
type times struct {
	life     time.Duration // of a lease that is not extended; it is, three times as often
	poll     time.Duration // between two looks of one who waits, beside those that it is woken for
	patience time.Duration // with a question to Redis
	pause    time.Duration // until Redis is asked again, when it was away
	failures time.Duration // for how long a failure is told
	longest  time.Duration // that a lease is believed, however often it is extended
}

// maxStrange is how often in a row a lease may be taken that nobody has.
const maxStrange = 3

// Leases are those of one replica. Nil are those of a registry that has no others: all work is
// done. They are safe for concurrent use.
type Leases struct {
	client redis.UniversalClient
	locks  *redsync.Redsync
	seal   seal
	times  times
	health health
	ends   ends

	releasing sync.WaitGroup
}

// New returns the leases of a registry that has the section redis, and nil for others. No work is
// waited for that takes longer than longest. Nothing is asked of Redis yet. The error has a line for
// each fault, which begins with its key.
func New(config *configuration.Configuration, longest time.Duration) (*Leases, error) {
	if len(config.Redis.Options.Addrs) == 0 {
		return nil, nil
	}
	client, err := newClient(config.Redis)
	if err != nil {
		return nil, err
	}
	switch {
	case config.HTTP.Secret == "":
		logrus.Info("nix: replicas don't wait for each other's builds: for that, give all the same http.secret")
		return nil, client.Close()
	case config.Storage.Type() == "inmemory":
		return nil, client.Close() // which no other replica shares
	}
	seal, err := newSeal(config)
	if err != nil {
		return nil, err
	}
	return &Leases{
		client: client,
		locks:  redsync.New(goredis.NewPool(client)),
		seal:   seal,
		times: times{
			life:     12 * time.Second,
			poll:     3 * time.Second,
			patience: time.Second,
			pause:    10 * time.Second,
			failures: time.Minute,
			longest:  longest,
		},
		ends: ends{waiting: make(map[string]map[chan struct{}]struct{})},
	}, nil
}

// Do has work done that all replicas want done, under a key that they have in common. It returns
// when the work is done: nil if done says so, or else what the work has returned, here or, if it is
// a failure that another try would not change soon (status.Costly), on another replica less than a
// minute ago. Done is asked before the work, and whenever another replica may have ended.
func (l *Leases) Do(
	ctx context.Context, key string, done func(context.Context) (bool, error), work func(context.Context) error,
) error {
	held, did, err := l.await(ctx, key, done)
	if did || err != nil {
		return err
	}
	defer held.release()
	if held != nil {
		if err := l.failure(ctx, key); err != nil {
			return err
		}
	}
	if ok, err := done(ctx); ok || err != nil {
		return err
	}
	err = work(ctx)
	held.fail(ctx, err)
	return err
}

// Try is for work that need not be done here if another replica does it. It returns false if one
// does. Otherwise the caller works, and calls release in the end. While Redis is away, all replicas
// work.
func (l *Leases) Try(ctx context.Context, key string) (release func(), ok bool) {
	held, taken := l.acquire(ctx, key)
	if taken {
		return nil, false
	}
	return held.release, true
}

// Close ends what is under way with Redis, when no work is left. It waits a little for leases to be
// given back: the others run out.
func (l *Leases) Close() {
	if l == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		l.releasing.Wait()
		l.ends.close()
		_ = l.client.Close()
	}()
	select {
	case <-closed:
	case <-time.After(3 * l.times.patience):
	}
}

// await returns the lease of a key when no other replica has it, nil if Redis is away, or once the
// other one has it for too long. It returns true without a lease if done says so.
func (l *Leases) await(
	ctx context.Context, key string, done func(context.Context) (bool, error),
) (held *lease, did bool, err error) {
	held, taken := l.acquire(ctx, key)
	if !taken {
		return held, false, nil
	}
	logrus.Infof("nix: another replica does this, and is waited for: %s", key)
	ended, stop := l.ends.of(l.seal.name("lease", key))
	defer stop()
	poll := time.NewTicker(l.times.poll)
	defer poll.Stop()
	heard := ended
	for strange := 0; taken; held, taken = l.acquire(ctx, key) {
		given, ok := l.given(ctx, key)
		switch {
		case ok && time.Since(given).Abs() > l.times.longest:
			logrus.Warnf("nix: another replica takes longer than %v, and is not waited for: %s", l.times.longest, key)
			return nil, false, nil
		case ok:
			strange = 0
		case strange < maxStrange:
			strange++
			continue // it has ended since
		default:
			l.health.fails(errStrange, l.times.pause)
			return nil, false, nil
		}
		select {
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		case <-heard:
			heard = nil // until the next poll: anybody may say so, and the storage is asked each time
		case <-poll.C:
			heard = ended
		}
		if did, err := done(ctx); did || err != nil {
			return nil, did, err
		}
		if err := l.failure(ctx, key); err != nil {
			return nil, false, err
		}
	}
	return held, false, nil
}

var errStrange = errors.New("leases are taken that no replica has")

// acquire takes the lease of a key if it is free. Taken tells that it is not. A nil lease that is
// not taken is for work without one.
func (l *Leases) acquire(ctx context.Context, key string) (held *lease, taken bool) {
	if l == nil {
		return nil, false
	}
	l.ends.listen(l.client, l.seal.name("ends", ""), l.times.poll)
	name := l.seal.name("lease", key)
	lock := l.locks.NewMutex(
		name,
		redsync.WithExpiry(l.times.life),
		redsync.WithTimeoutFactor(1), // ask has a shorter time
		redsync.WithSetNXOnExtend(),
		redsync.WithGenValueFunc(func() (string, error) { return l.seal.write(name, note{At: time.Now()}) }),
	)
	ok := l.ask(ctx, func(ctx context.Context) error {
		err := lock.TryLockContext(ctx)
		if taken = errors.As(err, new(*redsync.ErrTaken)); taken {
			return nil
		}
		return err
	})
	if !ok {
		return nil, false
	}
	l.health.works()
	if taken {
		return nil, true
	}
	held = &lease{leases: l, key: key, name: name, lock: lock, over: make(chan struct{}), stopped: make(chan struct{})}
	go held.extend()
	return held, false
}

// given tells when the lease of a key was given. It returns false if that can't be told, as when
// nobody has it.
func (l *Leases) given(ctx context.Context, key string) (at time.Time, ok bool) {
	n, ok := l.note(ctx, l.seal.name("lease", key))
	return n.At, ok
}

// note reads what is kept under a name. It returns false if there is nothing that a replica wrote.
func (l *Leases) note(ctx context.Context, name string) (n note, ok bool) {
	l.ask(ctx, func(ctx context.Context) error {
		sealed, err := l.client.GetRange(ctx, name, 0, maxNote).Result()
		if err != nil || sealed == "" {
			return err
		}
		n, err = l.seal.read(name, sealed)
		ok = err == nil
		return err
	})
	return n, ok
}

// failure returns how the work has failed on a replica, if it would fail again.
func (l *Leases) failure(ctx context.Context, key string) error {
	n, ok := l.note(ctx, l.seal.name("failure", key))
	err := status.Errorf(status.Kind(n.Kind), "%s", n.Message)
	if ok && status.Costly(err) && time.Since(n.At).Abs() < l.times.failures {
		return err
	}
	return nil
}

// A lease is held by this replica. A nil one is no lease.
type lease struct {
	leases  *Leases
	key     string
	name    string // of the key, in Redis
	lock    *redsync.Mutex
	over    chan struct{} // closed when the work is done
	stopped chan struct{} // closed when it is extended no more
}

// extend has the lease live until it is over, or another replica has it.
func (h *lease) extend() {
	defer close(h.stopped)
	tick := time.NewTicker(h.leases.times.life / 3)
	defer tick.Stop()
	for {
		select {
		case <-h.over:
			return
		case <-tick.C:
		}
		lost := false
		h.leases.insist(context.Background(), func(ctx context.Context) error {
			_, err := h.lock.ExtendContext(ctx)
			if lost = errors.As(err, new(*redsync.ErrTaken)); lost {
				return nil
			}
			return err
		})
		if lost {
			logrus.Infof("nix: another replica does this, too, as it has not heard of this one: %s", h.key)
			return
		}
	}
}

// release gives the lease back, behind the caller, and tells those who wait for it.
func (h *lease) release() {
	if h == nil {
		return
	}
	close(h.over)
	l := h.leases
	l.releasing.Go(func() {
		<-h.stopped
		l.insist(context.Background(), func(ctx context.Context) error {
			_, err := h.lock.UnlockContext(ctx)
			if errors.As(err, new(*redsync.ErrTaken)) || errors.Is(err, redsync.ErrLockAlreadyExpired) {
				err = nil
			}
			if err != nil {
				return err
			}
			return l.client.Publish(ctx, l.seal.name("ends", ""), h.name).Err()
		})
	})
}

// fail tells the other replicas how the work has failed, if it would fail again.
func (h *lease) fail(ctx context.Context, err error) {
	var failed *status.Error
	if h == nil || !status.Costly(err) || !errors.As(err, &failed) {
		return
	}
	name := h.leases.seal.name("failure", h.key)
	h.leases.ask(ctx, func(ctx context.Context) error {
		sealed, err := h.leases.seal.write(name, note{At: time.Now(), Kind: int(failed.Kind), Message: failed.Message})
		if err != nil {
			return err
		}
		return h.leases.client.Set(ctx, name, sealed, h.leases.times.failures).Err()
	})
}
