package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Retention of built images.
var (
	Retained = promauto.NewCounter(prometheus.CounterOpts{
		Namespace: namespace, Name: "retention_removed_total", Help: "Tags of built images that retention removed.",
	})
	RetentionRan = gauge("retention_timestamp_seconds", "When retention last came to its end here, in Unix time.")
)
