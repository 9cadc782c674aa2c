// Package metrics counts what the product does, for Prometheus, at the registry's own endpoint.
//
// All series are there from the start, so that rates and alerts see the first event. No label holds
// anything that clients choose, such as the name of an image. Everything here is safe for concurrent
// use.
//
// The library is the one below upstream's, which has no histograms for work that takes minutes.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// namespace is what all names begin with.
const namespace = "registry_nix"

// A Counter counts events of some kinds.
type Counter struct{ vec *prometheus.CounterVec }

func counter(name, help, label string, kinds ...string) Counter {
	vec := promauto.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label})
	for _, kind := range kinds {
		vec.WithLabelValues(kind)
	}
	return Counter{vec}
}

// Inc counts an event of a kind, which is one of those that the Counter was declared with.
func (c Counter) Inc(kind string) { c.vec.WithLabelValues(kind).Inc() }

// Add counts n of a kind.
func (c Counter) Add(kind string, n int64) { c.vec.WithLabelValues(kind).Add(float64(n)) }

// Total is how many events of a kind there were, for tests.
func (c Counter) Total(kind string) float64 { return read(c.vec.WithLabelValues(kind)) }

func gauge(name, help string) prometheus.Gauge {
	return promauto.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
}

// workBuckets are for work that takes from a tenth of a second to half an hour.
var workBuckets = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600, 1200, 1800}

// Outcomes of evaluations.
const (
	EvaluationOK     = "ok"     // it answered, be it that there is no such package
	EvaluationFailed = "failed" // it ended before it had an answer for each name
	EvaluationTime   = "time"   // it was ended for want of time
	EvaluationMemory = "memory"
	EvaluationEnded  = "ended" // by somebody else, or it was stuck
)

// Evaluations are processes that evaluated packages.
var Evaluations = counter("evaluations_total", "Evaluations, by outcome.", "outcome",
	EvaluationOK, EvaluationFailed, EvaluationTime, EvaluationMemory, EvaluationEnded)

// Kinds of work that is ended for what it takes.
const (
	KilledBuild      = "build"
	KilledEvaluation = "evaluation"
)

// Killed is work that ran into a limit of time or memory.
var Killed = counter("killed_total", "Builds and evaluations that ran into a limit.", "what",
	KilledBuild, KilledEvaluation)

// Where a layer is from.
const (
	LayerPacked = "packed"
	LayerKnown  = "known" // the registry had it
)

// Layers and LayerBytes are layers of images that were built, as they are stored.
var (
	Layers = counter("layers_total", "Layers of built images, by origin.", "origin", LayerPacked, LayerKnown)

	LayerBytes = counter("layer_bytes_total", "Compressed bytes of layers of built images, by origin.", "origin",
		LayerPacked, LayerKnown)
)

// A Phase is a part of a build.
type Phase string

// The phases, in their order.
const (
	Pin      Phase = "pin"
	Evaluate Phase = "evaluate"
	Realise  Phase = "realise"
	Pack     Phase = "pack"
	Commit   Phase = "commit"
)

var phases = phaseSeconds()

func phaseSeconds() *prometheus.HistogramVec {
	vec := promauto.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "phase_seconds", Help: "How long phases of builds took.", Buckets: workBuckets,
	}, []string{"phase"})
	for _, phase := range []Phase{Pin, Evaluate, Realise, Pack, Commit} {
		vec.WithLabelValues(string(phase))
	}
	return vec
}

// Begin begins a phase of a build. The caller calls end when it is over.
func (p Phase) Begin() (end func()) {
	begun := time.Now()
	return func() { phases.WithLabelValues(string(p)).Observe(time.Since(begun).Seconds()) }
}
