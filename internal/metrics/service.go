package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// How pulls of images made of packages end. A client that is sent round is counted when that ends.
const (
	PullStored      = "stored"  // it was there
	PullBuilt       = "built"   // it was made while the client waited for one answer
	PullWaited      = "waited"  // it was made while the client was sent round
	PullStale       = "stale"   // an older one was served
	PullUnknown     = "unknown" // there is no such package or tag
	PullRefused     = "refused" // by policy, or by the package set's own word
	PullFailed      = "failed"  // it does not build
	PullUnavailable = "unavailable"
	PullBusy        = "busy"
)

// Pulls are requests for manifests by tag.
var Pulls = counter("pulls_total", "Pulls of images made of packages, by result.", "result",
	PullStored, PullBuilt, PullWaited, PullStale, PullUnknown, PullRefused, PullFailed, PullUnavailable, PullBusy)

// Waits are how long clients waited that had to.
var waits = promauto.NewHistogram(prometheus.HistogramOpts{
	Namespace: namespace, Name: "wait_seconds",
	Help:    "How long clients waited for images that were not there, over all redirects.",
	Buckets: workBuckets,
})

// Waited notes how long a client waited, over all redirects.
func Waited(d time.Duration) { waits.Observe(d.Seconds()) }

// Outcomes of builds of images.
const (
	BuildBuilt       = "built"
	BuildUnknown     = "unknown"
	BuildRefused     = "refused"
	BuildFailed      = "failed"
	BuildUnavailable = "unavailable"
	BuildEnded       = "ended" // with the registry
)

// Triggers of builds of images.
const (
	TriggerPull     = "pull"
	TriggerRefresh  = "refresh" // a pull that an older image answered
	TriggerPrebuild = "prebuild"
	TriggerCommand  = "command"
)

var builds = buildsTotal()

func buildsTotal() *prometheus.CounterVec {
	vec := promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "builds_total", Help: "Builds of images, by outcome and trigger.",
	}, []string{"outcome", "trigger"})
	for _, outcome := range []string{
		BuildBuilt, BuildUnknown, BuildRefused, BuildFailed, BuildUnavailable, BuildEnded,
	} {
		for _, trigger := range []string{TriggerPull, TriggerRefresh, TriggerPrebuild, TriggerCommand} {
			vec.WithLabelValues(outcome, trigger)
		}
	}
	return vec
}

// Built counts a build of an image.
func Built(outcome, trigger string) { builds.WithLabelValues(outcome, trigger).Inc() }

// Builds of images under way, and what bounds them.
var (
	InProgress = gauge("builds_in_progress", "Images that are being made, those included that wait for their turn.")
	Queued     = gauge("builds_queued", "Images that wait for their turn to be built or downloaded.")
	Limit      = gauge("builds_limit", "Images that Nix builds for at a time (build.concurrency).")
	QueueLimit = gauge("queue_limit", "Images that may wait (build.queue).")
)

// The package set.
var (
	LookedUp = gauge("lookup_timestamp_seconds", "When the package set was last looked up with success, in Unix time.")
	Revised  = gauge("revision_timestamp_seconds", "When the present revision was first seen, in Unix time.")
	Refresh  = gauge("refresh_seconds", "How long a channel or branch is believed (refresh).")
	Usable   = gauge("evaluates", "Whether the present revision of the package set evaluates.")
)

// States of images of the option prebuild.
const (
	PrebuiltCurrent = "current"
	PrebuiltStale   = "stale" // not looked at since the last change
	PrebuiltFailed  = "failed"
	PrebuiltPushed  = "pushed"
)

var prebuilt = prebuiltGauge()

func prebuiltGauge() *prometheus.GaugeVec {
	vec := promauto.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "prebuilt", Help: "Images of the option prebuild, by state.",
	}, []string{"state"})
	for _, state := range []string{PrebuiltCurrent, PrebuiltStale, PrebuiltFailed, PrebuiltPushed} {
		vec.WithLabelValues(state)
	}
	return vec
}

// Prebuilt says how many images of the option prebuild are in each state.
func Prebuilt(states map[string]int) {
	for _, state := range []string{PrebuiltCurrent, PrebuiltStale, PrebuiltFailed, PrebuiltPushed} {
		prebuilt.WithLabelValues(state).Set(float64(states[state]))
	}
}

var info = promauto.NewGaugeVec(prometheus.GaugeOpts{
	Namespace: namespace, Name: "info", Help: "What runs, and from what it makes images.",
}, []string{"version", "nix", "source", "storeless"})

// Info says what runs, once.
func Info(version, nix, source string, storeless bool) {
	text := map[bool]string{true: "true", false: "false"}[storeless]
	info.WithLabelValues(version, nix, source, text).Set(1)
}
