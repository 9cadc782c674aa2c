package nixstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
)

const (
	// collectTo is how full the store is after a collection, of its limit. So not every build is
	// followed by one.
	collectTo = 0.9
	// collectShare is how many times as long as it has worked the collector pauses.
	collectShare = 20
	// shortestPause and longestPause are how long it pauses at least and at most.
	shortestPause = time.Second
	longestPause  = time.Minute
)

// A collector keeps the Nix store of the machine below a size. It looks at it when Nix has brought
// something in, one look at a time, and has Nix collect what no root holds. Collectors of several
// processes may work on one store.
type collector struct {
	most   int64
	open   func(context.Context) (*daemon.Conn, error)
	uproot func() // ends temporary roots that nobody needs any more

	grown chan struct{} // holds one
	// phases counts beginnings and ends of collections: while one runs, it is odd.
	phases atomic.Uint64
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

func newCollector(most int64, open func(context.Context) (*daemon.Conn, error), uproot func()) *collector {
	return &collector{most: most, open: open, uproot: uproot, grown: make(chan struct{}, 1), stop: func() {}}
}

// start begins with a look at the store, unless there is no limit.
func (c *collector) start() {
	if c.most == 0 {
		return
	}
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	c.grow()
	c.ended.Go(func() { c.run(ctx) })
}

// grow tells that the store may have more than before.
func (c *collector) grow() {
	select {
	case c.grown <- struct{}{}:
	default: // it will look
	}
}

// close ends the collector, and a collection under way.
func (c *collector) close() {
	c.stop()
	c.ended.Wait()
}

func (c *collector) run(ctx context.Context) {
	for {
		select {
		case <-c.grown:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("nix: the Nix store can't be kept below nix.maxstore, for the moment")
			c.grow()
		}
		select {
		case <-time.After(min(max(shortestPause, collectShare*time.Since(begun)), longestPause)):
		case <-ctx.Done():
			return
		}
	}
}

// mayCollect tells whether Nix collects for this process: nil, or why not.
func (c *collector) mayCollect(ctx context.Context) error {
	conn, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.MayCollect(ctx)
}

// look collects if the store is too large.
func (c *collector) look(ctx context.Context) error {
	conn, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	before, err := conn.Size(ctx)
	if err != nil || before <= c.most {
		return err
	}
	c.uproot()
	c.phases.Add(1)
	_, err = conn.Collect(ctx, before-int64(collectTo*float64(c.most)))
	c.phases.Add(1)
	if err != nil {
		return err
	}
	after, err := conn.Size(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("nix: the Nix store had %s, and has %s after a collection: nix.maxstore is %s",
		units.HumanSize(float64(before)), units.HumanSize(float64(after)), units.HumanSize(float64(c.most)))
	if after > c.most {
		logrus.Warn(text + ". The rest is in use, or has roots (nix-store --gc --print-roots lists them)")
	} else {
		logrus.Info(text)
	}
	return nil
}

// Phase tells where the Store's collections are, for Disturbed.
func (s *Store) Phase() uint64 { return s.collector.phases.Load() }

// Disturbed tells whether a collection ran since Phase returned phase. It may have taken what was not
// yet, or not any more, in use.
func (s *Store) Disturbed(phase uint64) bool { return phase%2 == 1 || s.Phase() != phase }
