package lease

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// health remembers that Redis is away, so that not each pull waits for it, and that it was said.
type health struct {
	mu    sync.Mutex
	away  bool
	again time.Time // when the next question may find out
}

// maybe tells whether to ask Redis. While it is away, one question in each pause finds out whether
// it is back.
func (h *health) maybe(pause time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.away && now.Before(h.again) {
		return false
	}
	h.again = now.Add(pause)
	return true
}

// fails takes in that a question has failed: Redis is away for a pause.
func (h *health) fails(fault error, pause time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.away {
		logrus.WithError(fault).Warn("nix: Redis can't be used, and replicas may build the same image until it can")
	}
	h.away = true
	h.again = time.Now().Add(pause)
}

// works takes in that Redis gives leases. That it answers is not enough: one that is full does.
func (h *health) works() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		logrus.Info("nix: Redis can be used again")
	}
	h.away = false
}
