package nixbuilder

import (
	"context"
	"errors"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// errTotal ends the work for an image that has taken all the time that there is for one.
var errTotal = errors.New("build.total is over")

// tooLong is what clients are told then.
func tooLong(total time.Duration) *status.Error {
	return status.Errorf(status.Denied, "making this image takes longer than the %v that build.total allows on this registry", total)
}

// A clock ends the work for an image, by its context, when that has taken its time. It stands still
// while the work waits for its turn. It is not safe for concurrent use.
type clock struct {
	left   time.Duration
	since  time.Time
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// newClock starts a clock. The cause of the context's end is errTotal when its time is over.
func newClock(ctx context.Context, total time.Duration) (context.Context, *clock) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &clock{
		left:   total,
		since:  time.Now(),
		timer:  time.AfterFunc(total, func() { cancel(errTotal) }),
		cancel: cancel,
	}
}

// wait stops the clock while turn waits. There may be no clock: nobody waits for what a command
// builds.
func (c *clock) wait(turn func() error) error {
	if c != nil && c.timer.Stop() {
		c.left -= time.Since(c.since)
		defer func() {
			c.since = time.Now()
			c.timer.Reset(c.left)
		}()
	}
	return turn()
}

// stop ends the context.
func (c *clock) stop() {
	c.timer.Stop()
	c.cancel(nil)
}
