package limit

import (
	"context"
	"sync"
)

// Slots bound how many pieces of work run at a time. They are safe for concurrent use.
type Slots chan struct{} // holds a token for each slot that is taken

// NewSlots makes n slots, all of them free. It panics if n is negative.
func NewSlots(n int) Slots { return make(Slots, n) }

// Acquire waits for a free slot. The error is the cause of the end of ctx.
func (s Slots) Acquire(ctx context.Context) (release func(), err error) {
	select {
	case s <- struct{}{}:
		return s.release(), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// TryAcquire does not wait: ok is false if no slot is free.
func (s Slots) TryAcquire() (release func(), ok bool) {
	select {
	case s <- struct{}{}:
		return s.release(), true
	default:
		return nil, false
	}
}

func (s Slots) release() func() { return sync.OnceFunc(func() { <-s }) }
