package middleware

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// What the process is set to while images are built.
const (
	// buildThreads is how many threads may run Go code for each core. Packing keeps goroutines busy
	// on all cores, and Go takes one off its core only after 10 ms. A pull would wait for that
	// several times. With more threads than cores the kernel chooses, and it prefers a thread that
	// has slept.
	buildThreads = 2
	// buildGCPercent is how much garbage there may be, in percent of what is in use. Some 50 MB are
	// in use, mostly buffers, which the collector need not look through. Collecting three times as
	// often costs a hundredth of the time.
	buildGCPercent = 30

	defaultGCPercent = 100

	// tuneAfter is how long a build packs layers before the process is tuned for it. That takes a
	// millisecond or two, and collects garbage.
	tuneAfter = 100 * time.Millisecond
)

// A runtimeTuning changes settings of the whole process while images are built. With nothing to
// build, they would only cost: a few hundredths of the requests per second. It is safe for
// concurrent use.
//
// What somebody has set stays: GOGC, and GOMAXPROCS. The latter also where a limit on the processor
// makes it less than the cores: threads over that limit would have to wait, those of pulls too.
type runtimeTuning struct {
	mu     sync.Mutex
	builds int // that have packed for longer than tuneAfter
	undo   []func()
}

// build returns what a build calls when it packs a layer, and what it calls at its end, after all
// calls of packing have returned. Until it packs, a build asks others to work: then the settings
// would cost pulls of stored images, and help nothing.
func (t *runtimeTuning) build() (packing, end func()) {
	var later *time.Timer
	packing = sync.OnceFunc(func() { later = time.AfterFunc(tuneAfter, t.set) })
	return packing, func() {
		if later != nil && !later.Stop() {
			t.reset()
		}
	}
}

func (t *runtimeTuning) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.builds--; t.builds != 0 {
		return
	}
	for _, undo := range t.undo {
		undo()
	}
	t.undo = nil
}

func (t *runtimeTuning) set() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.builds++; t.builds != 1 {
		return // the build may have ended just before
	}
	if cores := runtime.NumCPU(); runtime.GOMAXPROCS(0) == cores && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(buildThreads * cores)
		t.undo = append(t.undo, runtime.SetDefaultGOMAXPROCS)
	}
	if gcPercent() == defaultGCPercent {
		debug.SetGCPercent(buildGCPercent)
		t.undo = append(t.undo, func() { debug.SetGCPercent(defaultGCPercent) })
	}
}

// gcPercent returns the present value of GOGC.
func gcPercent() uint64 {
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(percent)
	return percent[0].Value.Uint64()
}
