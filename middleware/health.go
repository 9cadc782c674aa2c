package middleware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage/driver"
)

const (
	// storageBelieved is how long an answer of the storage is taken for the present one, however
	// often it is asked for.
	storageBelieved = 2 * time.Second
	// storagePatience is how long readiness waits for the storage to answer.
	storagePatience = 5 * time.Second
)

// Health answers /livez and /readyz, also where all else wants a login, and without a line in the
// access log. A program has it by registry.RegisterHandler(middleware.Health), after Site and before
// it starts the registry. A registry without the nix stanza is left as it is.
//
// The registry is ready while its storage answers: images that are stored can be served then,
// whatever is wrong with Nix or the package set. What is, is in the body. None of it is a check of
// the registry's own health: one that fails there has the registry refuse all requests.
func Health(config *configuration.Configuration, api http.Handler) http.Handler {
	service := serviceOf(config)
	if service == nil {
		return api
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isQuestion := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case isQuestion && r.URL.Path == "/livez":
			writeHealth(w, http.StatusOK, "ok")
		case isQuestion && r.URL.Path == "/readyz":
			lines, ready := service.readiness(r.Context())
			status := http.StatusOK
			if !ready {
				status = http.StatusServiceUnavailable
			}
			writeHealth(w, status, lines...)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

func writeHealth(w http.ResponseWriter, status int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, strings.Join(lines, "\n")) // to somebody who may have left
}

// readiness tells whether stored images can be served, and has a line for each thing that an image
// takes. It starts no work.
func (s *Service) readiness(ctx context.Context) (lines []string, ready bool) {
	if s.store == nil {
		return []string{"the registry is starting"}, false
	}
	err := s.storageHealth.ask(ctx)
	lines = append(lines, "storage: "+healthText(err))
	for _, part := range []struct {
		name  string
		known *condition
	}{{"package set", &s.packagesHealth}, {"builds", &s.buildsHealth}} {
		lines = append(lines, part.name+": "+part.known.String())
	}
	return lines, err == nil
}

func healthText(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// A condition is how a part did when it was last used. The zero value is well. It is safe for
// concurrent use.
type condition struct {
	mu    sync.Mutex
	fault string // what everybody may know of it; empty: well
	since time.Time
}

// found notes how the part did. Only what everybody may know of an error is kept.
func (c *condition) found(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fault := publicText(err); fault == "" || c.fault == "" {
		c.fault, c.since = fault, time.Now()
	} else {
		c.fault = fault
	}
}

func (c *condition) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == "" {
		return "ok"
	}
	return fmt.Sprintf("%s (since %s)", c.fault, c.since.UTC().Format(time.RFC3339))
}

// storageHealth is whether a storage answers. It is safe for concurrent use: the storage is asked
// one question at a time.
type storageHealth struct {
	storage driver.StorageDriver

	mu     sync.Mutex
	at     time.Time // of the last answer
	fault  error
	asking chan struct{} // closed when the question under way is answered; nil: there is none
	since  time.Time     // of that question
}

// ask returns nil if the storage answers.
func (h *storageHealth) ask(ctx context.Context) error {
	h.mu.Lock()
	if h.asking == nil {
		if time.Since(h.at) < storageBelieved {
			defer h.mu.Unlock()
			return h.fault
		}
		h.asking, h.since = make(chan struct{}), time.Now()
		go h.question(context.WithoutCancel(ctx))
	}
	asking, since := h.asking, h.since
	h.mu.Unlock()
	patience := time.NewTimer(storagePatience)
	defer patience.Stop()
	select {
	case <-asking:
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.fault
	case <-patience.C:
		return fmt.Errorf("has not answered for %v", time.Since(since).Round(time.Second))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// question looks for the root directory, which there need not be.
func (h *storageHealth) question(ctx context.Context) {
	_, err := h.storage.Stat(ctx, "/")
	if errors.As(err, new(driver.PathNotFoundError)) {
		err = nil
	}
	if err != nil {
		err = errors.New("fails") // what it says is for the log, where its requests are
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.fault = time.Now(), err
	close(h.asking)
	h.asking = nil
}
