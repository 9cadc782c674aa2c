package daemon

import (
	"context"
	"fmt"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// These are the protocol's numbers of the operations on a whole store.
const (
	opCollectGarbage     = 20
	opQueryAllValidPaths = 23

	// A collection deletes what no root holds, or what it is told, if no root holds that.
	actionDeleteDead     = 2
	actionDeleteSpecific = 3
)

// maxStorePaths is how many paths a store may have to be asked about as a whole.
const maxStorePaths = 1 << 23

// Size returns how many bytes all paths in the store have together, as NARs. Nix counts so, too: what
// several paths share by hard links is counted for each, and the file system's own part for none. It
// takes some 20 ms for each thousand paths, and its memory is that of their names.
func (c *Conn) Size(ctx context.Context) (bytes int64, err error) {
	err = c.do(ctx, "asking for the size of the store", storeSilence, func() error {
		c.w.uint(opQueryAllValidPaths)
		if err := c.request(nil); err != nil {
			return err
		}
		n := c.r.uint()
		if n > maxStorePaths {
			c.r.fail(fmt.Errorf("reading a count: %d is more than %d", n, maxStorePaths))
		}
		var paths []store.Path
		for ; n > 0 && c.r.err == nil; n-- {
			paths = append(paths, c.r.path())
		}
		if c.r.err != nil {
			return c.r.err
		}
		return c.each(opQueryPathInfo, paths, func(p store.Path) { // one that is gone by now has no size
			_, size, _ := c.r.known(p, c.r.skipTexts)
			bytes += size
		})
	})
	if err != nil {
		return 0, err
	}
	return bytes, nil
}

// Collect has Nix delete what no root holds, until it has freed so many bytes on the disk or there is
// nothing left. What a Conn has temporary roots for stays, and other connections can be used
// meanwhile. If the context ends, or the daemon hangs, so does its process. The store is as it should
// be also then, and what was deleted stays so.
func (c *Conn) Collect(ctx context.Context, most int64) (freed int64, err error) {
	return c.collect(ctx, actionDeleteDead, uint64(most))
}

// MayCollect tells whether the daemon collects for this user: nil, or why not. It deletes nothing.
func (c *Conn) MayCollect(ctx context.Context) error {
	_, err := c.collect(ctx, actionDeleteSpecific, 0) // nothing specific
	return err
}

func (c *Conn) collect(ctx context.Context, action, most uint64) (freed int64, err error) {
	err = c.do(ctx, "collecting garbage", collectSilence, func() error {
		// So that it says what it deletes: a sign of life.
		if err := c.setOptionsAt(levelInfo, c.settings, nil); err != nil {
			return err
		}
		c.w.uint(opCollectGarbage)
		c.w.uint(action)
		c.w.uint(0) // how many paths follow
		c.w.uint(0) // what is in use is not ignored
		c.w.uint(most)
		for range 3 {
			c.w.uint(0) // obsolete
		}
		if err := c.request(nil); err != nil {
			return err
		}
		n := c.r.uint()
		if n > maxStorePaths {
			c.r.fail(fmt.Errorf("reading a count: %d is more than %d", n, maxStorePaths))
		}
		for ; n > 0 && c.r.err == nil; n-- {
			c.r.skipText() // what was deleted
		}
		freed = c.r.size()
		c.r.uint() // obsolete
		if c.r.err != nil {
			return c.r.err
		}
		return c.setOptions(c.settings, nil)
	})
	if err != nil {
		return 0, err
	}
	return freed, nil
}
