package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Collection of blobs.
var (
	CollectedBytes = promauto.NewCounter(prometheus.CounterOpts{
		Namespace: namespace, Name: "collected_bytes_total", Help: "Bytes of blobs that were collected.",
	})
	CollectionRan = gauge("collection_timestamp_seconds", "When this process last collected blobs, in Unix time.")
)
