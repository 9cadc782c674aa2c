package limit

import (
	"context"
	"errors"
	"time"
)

// errSlow ends work that has to begin again where slow work is done.
var errSlow = errors.New("it takes long, and other work that takes long is under way")

// Lanes limit two classes of work, so that slow work does not keep quick work waiting: each class
// has slots of its own. All work begins as quick. When its time is up, it goes on in a slow slot.
// If none is free, it is stopped, waits for one, and begins again. Lanes are safe for concurrent
// use.
type Lanes struct {
	quick, slow *Shared
	quickTime   time.Duration
}

// NewLanes has so many slots for each class, and lets work be quick for quickTime.
func NewLanes(quick, slow int, quickTime time.Duration) *Lanes {
	return &Lanes{quick: NewShared(quick), slow: NewShared(slow), quickTime: quickTime}
}

// Do does work. Work ends when its context does, and may then be called again. Do calls slowed,
// once, if the work turns out to be slow.
func (l *Lanes) Do(ctx context.Context, who Asker, work func(context.Context) error, slowed func()) error {
	releaseQuick, err := l.quick.Acquire(ctx, who)
	if err != nil {
		return err
	}
	defer releaseQuick()
	attempt, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan error, 1)
	go func() { done <- work(attempt) }()
	timer := time.NewTimer(l.quickTime)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	slowed()
	if releaseSlow, ok := l.slow.TryAcquire(who); ok {
		releaseQuick()
		defer releaseSlow()
		return <-done
	}
	stop(errSlow)
	err = <-done
	releaseQuick()
	if err == nil || ctx.Err() != nil || !errors.Is(err, errSlow) {
		return err // it ended by itself meanwhile
	}
	releaseSlow, err := l.slow.Acquire(ctx, who)
	if err != nil {
		return err
	}
	defer releaseSlow()
	return work(ctx)
}
