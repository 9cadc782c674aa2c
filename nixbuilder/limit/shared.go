package limit

import (
	"context"
	"slices"
	"sync"
)

// An Asker is for whom work is done.
type Asker struct {
	// Client is who waits for it: a user, or an address.
	Client string
	// ByClient says that the client chose what is worked on, such as a revision.
	ByClient bool
}

// Shared are slots for the work of many clients. Those who wait take turns: a slot goes to the client
// that has the fewest, and among equals to the one that has waited longest for its turn, however
// much each asks for. Work that clients choose may not
// take all slots, where there is more than one, so what the operator has configured does not wait
// behind that alone. They are safe for concurrent use.
type Shared struct {
	mu             sync.Mutex
	free, byClient int            // slots, and how many of these for work that clients choose
	turns          []*turn        // of the clients that wait, the next one first
	held           map[string]int // slots, by client
}

// A turn is the work that a client waits for, in the order in which it was asked for.
type turn struct {
	client  string
	waiting []*waiter
}

type waiter struct {
	Asker
	granted chan struct{} // closed when it has a slot
}

// NewShared makes n slots, of which work that clients choose may take ClientShare(n).
func NewShared(n int) *Shared {
	return &Shared{free: n, byClient: ClientShare(n), held: make(map[string]int)}
}

// ClientShare is how many of n slots work that clients choose may take: three quarters, rounded up,
// but one less than all and one at least.
func ClientShare(n int) int { return max(1, min(n-1, n-n/4)) }

// Acquire waits for a slot. The error is the cause of the end of ctx.
func (s *Shared) Acquire(ctx context.Context, who Asker) (release func(), err error) {
	w := &waiter{Asker: who, granted: make(chan struct{})}
	s.mu.Lock()
	s.enqueue(w)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.granted:
		return s.release(w), nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	left := s.leave(w)
	s.mu.Unlock()
	if !left { // it was granted at the same moment
		s.release(w)()
	}
	return nil, context.Cause(ctx)
}

// TryAcquire does not wait: ok is false if no slot is free.
func (s *Shared) TryAcquire(who Asker) (release func(), ok bool) {
	w := &waiter{Asker: who}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fits(w) {
		return nil, false
	}
	s.take(w)
	return s.release(w), true
}

func (s *Shared) fits(w *waiter) bool { return s.free > 0 && (!w.ByClient || s.byClient > 0) }

func (s *Shared) take(w *waiter) {
	s.free--
	s.held[w.Client]++
	if w.ByClient {
		s.byClient--
	}
}

func (s *Shared) release(w *waiter) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.free++
		if w.ByClient {
			s.byClient++
		}
		s.grant() // while it counts as the client's: another one's turn comes first
		if s.held[w.Client]--; s.held[w.Client] == 0 {
			delete(s.held, w.Client)
		}
	})
}

// grant gives free slots to those who wait, in turn.
func (s *Shared) grant() {
	for s.free > 0 {
		next := -1
		for i, t := range s.turns {
			fits := slices.ContainsFunc(t.waiting, s.fits)
			if fits && (next < 0 || s.held[t.client] < s.held[s.turns[next].client]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		t := s.turns[next]
		i := slices.IndexFunc(t.waiting, s.fits)
		w := t.waiting[i]
		s.take(w)
		close(w.granted)
		t.waiting = slices.Delete(t.waiting, i, i+1)
		s.turns = slices.Delete(s.turns, next, next+1)
		if len(t.waiting) > 0 {
			s.turns = append(s.turns, t)
		}
	}
}

func (s *Shared) enqueue(w *waiter) {
	i := slices.IndexFunc(s.turns, func(t *turn) bool { return t.client == w.Client })
	if i < 0 {
		i, s.turns = len(s.turns), append(s.turns, &turn{client: w.Client})
	}
	s.turns[i].waiting = append(s.turns[i].waiting, w)
}

// leave removes a waiter. It is false if that waits no more.
func (s *Shared) leave(w *waiter) bool {
	i := slices.IndexFunc(s.turns, func(t *turn) bool { return t.client == w.Client })
	if i < 0 {
		return false
	}
	t := s.turns[i]
	j := slices.Index(t.waiting, w)
	if j < 0 {
		return false
	}
	if t.waiting = slices.Delete(t.waiting, j, j+1); len(t.waiting) == 0 {
		s.turns = slices.Delete(s.turns, i, i+1)
	}
	return true
}
