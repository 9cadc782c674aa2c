package limit

import "context"

// Shared are slots of which work for clients' own choices, such as a revision that a client named,
// may not take all, where there is more than one. So what the operator has configured does not wait
// behind that alone. They are safe for concurrent use.
type Shared struct{ all, byClient Slots }

// NewShared makes n slots, of which work that clients choose may take ClientShare(n).
func NewShared(n int) Shared {
	return Shared{all: NewSlots(n), byClient: NewSlots(ClientShare(n))}
}

// ClientShare is how many of n slots work that clients choose may take: three quarters, rounded up,
// but one less than all and one at least.
func ClientShare(n int) int { return max(1, min(n-1, n-n/4)) }

// Acquire waits for a free slot. The error is the cause of the end of ctx.
func (s Shared) Acquire(ctx context.Context, byClient bool) (release func(), err error) {
	if !byClient {
		return s.all.Acquire(ctx)
	}
	releaseShare, err := s.byClient.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	releaseSlot, err := s.all.Acquire(ctx)
	if err != nil {
		releaseShare()
		return nil, err
	}
	return func() { releaseSlot(); releaseShare() }, nil
}

// TryAcquire does not wait: ok is false if no slot is free.
func (s Shared) TryAcquire(byClient bool) (release func(), ok bool) {
	if !byClient {
		return s.all.TryAcquire()
	}
	releaseShare, ok := s.byClient.TryAcquire()
	if !ok {
		return nil, false
	}
	releaseSlot, ok := s.all.TryAcquire()
	if !ok {
		releaseShare()
		return nil, false
	}
	return func() { releaseSlot(); releaseShare() }, true
}
