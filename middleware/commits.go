package middleware

import (
	"context"
	"slices"
	"sync"
)

// commits are those that are under way, by repository. What they store is stored in any order, so a
// manifest can be there before all that it refers to; who is notified of it, and asks at once,
// waits here. The zero value is none. It is safe for concurrent use.
type commits struct {
	mu       sync.Mutex
	underWay map[string][]chan struct{} // closed when the commit is over
}

// begin is called before a commit stores anything, and end when all is there, or was not stored.
// More calls of end do nothing.
func (c *commits) begin(repository string) (end func()) {
	over := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underWay == nil {
		c.underWay = make(map[string][]chan struct{})
	}
	c.underWay[repository] = append(c.underWay[repository], over)
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		others := slices.DeleteFunc(c.underWay[repository], func(other chan struct{}) bool { return other == over })
		if c.underWay[repository] = others; len(others) == 0 {
			delete(c.underWay, repository)
		}
		close(over)
	})
}

// await returns when the commits into a repository that have begun are over.
func (c *commits) await(ctx context.Context, repository string) error {
	c.mu.Lock()
	underWay := slices.Clone(c.underWay[repository])
	c.mu.Unlock()
	for _, over := range underWay {
		select {
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
