package collection

import (
	"context"
	"time"
)

// What tests set.
const (
	SettleTime = settleTime
	SightAge   = sightAge
	SweepTime  = sweepTime
	DeleteTime = deleteTime
	Youngest   = youngest
	RunsDir    = runsDir
	SparedDir  = sparedDir
)

// SetClock has a Gate go by another clock.
func (g *Gate) SetClock(now func() time.Time) { g.view.now = now }

// WatchNow looks for runs once, unless something else looks.
func (g *Gate) WatchNow(ctx context.Context) error {
	if !g.view.mu.TryLock() {
		return nil
	}
	defer g.view.mu.Unlock()
	_, err := g.view.look(ctx)
	return err
}

// SetWait has a Collector wait in another way.
func (c *Collector) SetWait(wait func(context.Context, time.Duration) error) { c.wait = wait }

// SetMax bounds the candidates of a run.
func (c *Collector) SetMax(n int) { c.max = n }

// SetYoungest has a Collector take also what is new.
func (c *Collector) SetYoungest(d time.Duration) { c.youngest = d }
