package lease

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// ends wake who waits for a lease when its holder says that it has ended.
type ends struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]struct{} // by the name of the lease
	heard   *redis.PubSub                         // nil before anything was asked
	closed  bool
}

// of returns a channel that gets something when a lease has ended, until stop is called.
func (e *ends) of(name string) (ended <-chan struct{}, stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	one := make(chan struct{}, 1)
	if e.waiting[name] == nil {
		e.waiting[name] = make(map[chan struct{}]struct{})
	}
	e.waiting[name][one] = struct{}{}
	return one, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.waiting[name], one)
		if len(e.waiting[name]) == 0 {
			delete(e.waiting, name)
		}
	}
}

// tell wakes who waits for a lease.
func (e *ends) tell(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for one := range e.waiting[name] {
		select {
		case one <- struct{}{}:
		default: // it was woken and has not looked yet
		}
	}
}

// listen begins to hear what holders say, unless it has. A message that is lost, as while Redis is
// away, costs those who wait a poll, and so does Redis a pause.
func (e *ends) listen(client redis.UniversalClient, channel string, pause time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard != nil || e.closed {
		return
	}
	heard := client.Subscribe(context.Background()) // to no channel yet, so that nothing is asked here
	e.heard = heard
	go func() {
		// It remembers its channel, also if Redis is away, and connects for each message if need be.
		_ = heard.Subscribe(context.Background(), channel)
		for {
			message, err := heard.ReceiveMessage(context.Background())
			switch {
			case errors.Is(err, redis.ErrClosed):
				return
			case err != nil:
				time.Sleep(pause)
			default:
				e.tell(message.Payload)
			}
		}
	}()
}

// close ends listening.
func (e *ends) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.heard != nil {
		_ = e.heard.Close()
	}
}
