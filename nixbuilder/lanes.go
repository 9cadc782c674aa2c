package nixbuilder

import (
	"context"
	"errors"
	"time"
)

// quickTime is how long an evaluation may keep others waiting. Ten names of a set like nixpkgs take
// half a second.
const quickTime = 3 * time.Second

// errSlow is that work has to begin again where slow work is done.
var errSlow = errors.New("it takes long, and other work that takes long is under way")

// lanes bound how much work is done at a time, so that slow work does not keep quick work waiting:
// each has as many places. All work begins as quick. When its time is up it goes on in a slow
// place; if none is free, it is stopped, waits for one, and begins again.
type lanes struct {
	quick, slow places
	quickTime   time.Duration
}

func newLanes(concurrency int, quickTime time.Duration) *lanes {
	return &lanes{quick: newPlaces(concurrency), slow: newPlaces(concurrency), quickTime: quickTime}
}

// do does work, which ends when its ctx does and may then be called again, and calls slowed, once,
// if it turns out to be slow. Chosen is as for places.
func (l *lanes) do(ctx context.Context, byClient bool, work func(context.Context) error, slowed func()) error {
	leaveQuick, err := l.quick.enter(ctx, byClient)
	if err != nil {
		return err
	}
	attempt, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan error, 1)
	go func() { done <- work(attempt) }()
	timer := time.NewTimer(l.quickTime)
	defer timer.Stop()
	select {
	case err := <-done:
		leaveQuick()
		return err
	case <-timer.C:
	}
	slowed()
	if leaveSlow, ok := l.slow.tryEnter(byClient); ok {
		leaveQuick()
		defer leaveSlow()
		return <-done
	}
	stop(errSlow)
	err = <-done
	leaveQuick()
	if err == nil || ctx.Err() != nil || !errors.Is(err, errSlow) {
		return err // it ended by itself meanwhile
	}
	leaveSlow, err := l.slow.enter(ctx, byClient)
	if err != nil {
		return err
	}
	defer leaveSlow()
	return work(ctx)
}

func take(ctx context.Context, tokens chan<- struct{}) error {
	select {
	case tokens <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
