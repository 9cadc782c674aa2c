package limit

import "sync"

// Keyed has one piece of work for each key at a time, whoever wants it done. The zero value has
// none under way. It is safe for concurrent use.
type Keyed struct {
	mu      sync.Mutex
	running map[string]chan struct{} // closed when the work is over
}

// Claim gives the work of a key to the caller, who calls release when it is over. If somebody else
// does that work already, release is nil, and other is closed when it is over.
//
// What is looked for before the claim may have been made since. Look again after it.
func (k *Keyed) Claim(key string) (release func(), other <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if running, taken := k.running[key]; taken {
		return nil, running
	}
	if k.running == nil {
		k.running = make(map[string]chan struct{})
	}
	over := make(chan struct{})
	k.running[key] = over
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.running, key)
		close(over)
	}), nil
}
