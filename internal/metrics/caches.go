package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Outcomes of requests to binary caches.
const (
	CacheFound   = "found"
	CacheMissing = "missing"
	CacheFailed  = "failed"
)

var (
	cacheRequests = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "cache_requests_total",
		Help: "Requests of this process to binary caches, by host and outcome. Those of Nix are not among them.",
	}, []string{"host", "outcome"})
	cacheBytes = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "cache_bytes_total", Help: "Bytes that binary caches sent, by host.",
	}, []string{"host"})
	cacheSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "cache_seconds",
		Help:    "How long binary caches took to begin their answer, by host.",
		Buckets: prometheus.DefBuckets,
	}, []string{"host"})
)

// A Cache is a binary cache that the operator has configured.
type Cache struct {
	outcomes map[string]prometheus.Counter
	bytes    prometheus.Counter
	seconds  prometheus.Observer
}

// CacheOf returns the Cache at a host, or "file" for directories.
func CacheOf(host string) *Cache {
	c := &Cache{
		outcomes: make(map[string]prometheus.Counter),
		bytes:    cacheBytes.WithLabelValues(host),
		seconds:  cacheSeconds.WithLabelValues(host),
	}
	for _, outcome := range []string{CacheFound, CacheMissing, CacheFailed} {
		c.outcomes[outcome] = cacheRequests.WithLabelValues(host, outcome)
	}
	return c
}

// Answered counts a request that began so long ago.
func (c *Cache) Answered(outcome string, took time.Duration) {
	c.outcomes[outcome].Inc()
	c.seconds.Observe(took.Seconds())
}

// Received counts bytes of an answer.
func (c *Cache) Received(n int) { c.bytes.Add(float64(n)) }

// Requests is how many requests had an outcome, for tests.
func (c *Cache) Requests(outcome string) float64 { return read(c.outcomes[outcome]) }

// Bytes is how many bytes came, for tests.
func (c *Cache) Bytes() float64 { return read(c.bytes) }
