package nixbuilder

import "context"

// places bound how much work is done at a time. Work for revisions that clients choose may not take
// them all, where there is more than one, so that what the operator has configured does not wait
// behind that alone.
type places struct{ all, byClient chan struct{} } // a token for each piece of work

func newPlaces(n int) places {
	return places{all: make(chan struct{}, n), byClient: make(chan struct{}, ClientShare(n))}
}

// ClientShare is how many of n places work for revisions that clients choose may take: three
// quarters, rounded up, but one less than all and one at least.
func ClientShare(n int) int { return max(1, min(n-1, n-n/4)) }

// enter waits for a place, which leave gives back.
func (p places) enter(ctx context.Context, byClient bool) (leave func(), err error) {
	if byClient {
		if err := take(ctx, p.byClient); err != nil {
			return nil, err
		}
	}
	if err := take(ctx, p.all); err != nil {
		if byClient {
			<-p.byClient
		}
		return nil, err
	}
	return p.leave(byClient), nil
}

// tryEnter does not wait: it is false if there is no place.
func (p places) tryEnter(byClient bool) (leave func(), ok bool) {
	if byClient {
		select {
		case p.byClient <- struct{}{}:
		default:
			return nil, false
		}
	}
	select {
	case p.all <- struct{}{}:
		return p.leave(byClient), true
	default:
		if byClient {
			<-p.byClient
		}
		return nil, false
	}
}

func (p places) leave(byClient bool) func() {
	return func() {
		<-p.all
		if byClient {
			<-p.byClient
		}
	}
}
