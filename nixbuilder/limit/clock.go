package limit

import (
	"context"
	"errors"
	"time"
)

// ErrTime is the cause of the end of a context whose Clock has run out.
var ErrTime = errors.New("the time for this work is over")

// A Clock bounds how long work takes, by the work's context. It stands still while the work waits
// for its turn. It is not safe for concurrent use.
type Clock struct {
	left   time.Duration
	since  time.Time
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// NewClock starts a Clock. When its time is over, the context ends with ErrTime as its cause.
func NewClock(ctx context.Context, total time.Duration) (context.Context, *Clock) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &Clock{
		left: total, since: time.Now(), timer: time.AfterFunc(total, func() { cancel(ErrTime) }), cancel: cancel,
	}
}

// Wait calls turn, and stops the Clock meanwhile. A nil Clock bounds nothing.
func (c *Clock) Wait(turn func() error) error {
	if c != nil && c.timer.Stop() {
		c.left -= time.Since(c.since)
		defer func() {
			c.since = time.Now()
			c.timer.Reset(c.left)
		}()
	}
	return turn()
}

// Stop ends the context.
func (c *Clock) Stop() {
	c.timer.Stop()
	c.cancel(nil)
}
