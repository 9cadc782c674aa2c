package imagestore

import (
	"context"
	"slices"
	"sync"
)

// inFlightCommits are the commits that are under way, by repository. A commit stores in any order,
// so a manifest can be there before all that it refers to. A client that is notified of the
// manifest and asks for its layers at once waits here.
//
// The zero value has none. It is safe for concurrent use.
type inFlightCommits struct {
	mu       sync.Mutex
	underWay map[string][]chan struct{} // closed when the commit is over
}

// begin is called before a commit stores anything, and end when all is there, or was not stored.
// More calls of end do nothing.
func (c *inFlightCommits) begin(repository string) (end func()) {
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

// wait returns when all commits into a repository that have begun are over. The error is the cause
// of the end of ctx.
func (c *inFlightCommits) wait(ctx context.Context, repository string) error {
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
