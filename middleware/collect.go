package middleware

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/docker/go-units"
	"github.com/felixge/httpsnoop"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/middleware/collection"
)

// collectAgain is how long it takes at most until a collection is tried again that failed.
const collectAgain = time.Hour

// errNoGate is of a program that did not call Setup before it made the registry.
var errNoGate = errors.New("blobs can't be collected in this program: its storage is not watched over")

// Collect deletes what only built images had and no tag leads to any more, while registries serve
// the storage. That takes a quarter of an hour or more. For some minutes of that, all registries
// refuse pushes and builds.
//
// Dry only tells what would be deleted, at once.
func (s *Service) Collect(ctx context.Context, dry bool) (collection.Report, error) {
	switch {
	case s.collector == nil:
		return collection.Report{}, errNoGate
	case dry:
		return s.collector.Look(ctx)
	}
	begun := time.Now()
	report, err := s.collector.Collect(ctx)
	metrics.CollectedBytes.Add(float64(report.Bytes))
	if err == nil {
		metrics.CollectionRan.SetToCurrentTime()
		logrus.Infof("nix: collected %d manifests of %d repositories, and %d blobs with %s, in %v", report.Manifests(),
			len(report.Repositories), report.Blobs, units.HumanSize(float64(report.Bytes)),
			time.Since(begun).Round(time.Second))
	}
	return report, err
}

// watch looks whether blobs are being collected, and collects some every now and then. It goes on
// behind until ctx ends.
func (s *Service) watch(ctx context.Context) {
	if s.gate == nil || s.readOnly {
		return
	}
	if _, err := s.gate.Begin(ctx); err != nil && !errors.Is(err, collection.ErrPaused) {
		logrus.WithError(err).Warn("nix: it can't be read whether blobs are being collected")
	}
	if s.serves && s.options.Collection.Every > 0 {
		go s.gate.Watch(ctx)
		go s.collectEvery(ctx, s.options.Collection.Every)
	}
}

// collectEvery collects, unless another registry has, until ctx ends. Of several registries, that is
// mostly one; two at a time do no harm.
func (s *Service) collectEvery(ctx context.Context, every time.Duration) {
	for {
		wait := rand.N(every / 10)
		if last, err := s.collector.Last(ctx); err != nil {
			wait += min(every, collectAgain)
		} else if age := time.Since(last); age < every {
			wait += every - max(age, 0) // also if a clock was ahead
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if last, err := s.collector.Last(ctx); err == nil && time.Since(last) >= every {
			_, err = s.Collect(ctx, false)
			if err != nil && ctx.Err() == nil {
				logrus.WithError(err).Warn("nix: blobs can't be collected, nothing is lost")
			}
		}
	}
}

// begin begins a build: see collection.Gate.Begin.
func (s *Service) begin(ctx context.Context) (context.Context, error) {
	if s.gate == nil {
		return ctx, nil
	}
	return s.gate.Begin(ctx)
}

// mayPull refuses to begin a pull of what is about to be deleted.
func (s *Service) mayPull(ctx context.Context, manifest digest.Digest) error {
	if s.gate == nil || s.readOnly {
		return nil
	}
	leaving, err := s.gate.Leaving(ctx, manifest)
	if err == nil && leaving {
		err = collection.ErrPaused
	}
	return err
}

// Writes answers pushes that begin while blobs are collected, and those that were refused in the
// middle, with 503 and Retry-After. A program has it by registry.RegisterHandler(middleware.Writes),
// before it starts the registry. Without it, they are refused with other errors.
func Writes(config *configuration.Configuration, api http.Handler) http.Handler {
	stanza, err := find(config)
	if stanza == nil || err != nil {
		return api
	}
	service, ok := stanza.Options[serviceKey].(*Service)
	if !ok {
		return api
	}
	prefix := path.Join("/", config.HTTP.Prefix, "v2") + "/"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// PATCH adds to an upload, and what is uploaded is stored by PUT.
		writes := r.Method == http.MethodPost || r.Method == http.MethodPut
		if service.gate == nil || service.readOnly || !writes || !strings.HasPrefix(r.URL.Path, prefix) {
			api.ServeHTTP(w, r)
			return
		}
		header := w.Header()
		after := func() { header.Set("Retry-After", strconv.Itoa(int(retryPaused.Seconds()))) }
		if _, err := service.gate.Begin(r.Context()); err != nil {
			if err.Error() != collection.ErrPaused.Error() { // it has a cause
				logrus.WithError(err).Error("nix: a push is refused: it can't be read whether blobs are being collected")
			}
			after()
			_ = errcode.ServeJSON(w, collection.ErrPaused)
			return
		}
		var refused atomic.Bool
		w = httpsnoop.Wrap(w, httpsnoop.Hooks{
			WriteHeader: func(write httpsnoop.WriteHeaderFunc) httpsnoop.WriteHeaderFunc {
				return func(code int) {
					if refused.Load() && code >= http.StatusInternalServerError {
						code = http.StatusServiceUnavailable
						after()
					}
					write(code)
				}
			},
		})
		api.ServeHTTP(w, r.WithContext(collection.WithRefusal(r.Context(), &refused)))
	})
}
