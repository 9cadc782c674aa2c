package middleware

import (
	"slices"
	"sync"
	"time"
)

// recentKept is how many builds the page shows.
const recentKept = 20

// A recentBuild is a build that has ended.
type recentBuild struct {
	Image, Fault string // Fault is for clients; empty: it went well
	At           time.Time
	Took         time.Duration
}

// recentBuilds are the last builds of this process. They are safe for concurrent use.
type recentBuilds struct {
	mu   sync.Mutex
	last []recentBuild // the newest first
}

func (r *recentBuilds) add(image string, started time.Time, fault string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.last = slices.Insert(r.last, 0, recentBuild{
		Image: image,
		Fault: fault,
		At:    now.UTC().Truncate(time.Second),
		Took:  now.Sub(started).Round(time.Millisecond),
	})
	r.last = r.last[:min(len(r.last), recentKept)]
}

func (r *recentBuilds) list() []recentBuild {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.last)
}
