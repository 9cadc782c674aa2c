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
	// busyThreads is how many threads may run Go code for each core. Packing has goroutines busy on
	// all cores, and Go takes one off its core for another only after 10 ms, which a pull would
	// wait for several times. With more threads than cores it is the kernel that chooses, and it
	// prefers a thread that has slept.
	busyThreads = 2
	// busyGarbage is how much garbage there may be, in percent of what is in use. That is some 50
	// MB, mostly buffers, which are nothing to look through: collecting three times as often costs
	// a hundredth of the time.
	busyGarbage = 30

	usualGarbage = 100

	// busyAfter is how long builds take that are worth it. To set the process takes a millisecond
	// or two, and has garbage collected.
	busyAfter = 100 * time.Millisecond
)

// busy changes settings of the whole process while images are built. With nothing to build, they
// would only cost: a few hundredths of the requests per second. Those that somebody has set are
// left alone: GOMAXPROCS, also where it is less than the cores because of a limit on the processor
// (what is over that limit would have to wait, pulls too), and GOGC. It is safe for concurrent use.
type busy struct {
	mu     sync.Mutex
	builds int // that take long
	undo   []func()
}

// begin returns what is to be called when the build ends.
func (b *busy) begin() (end func()) {
	later := time.AfterFunc(busyAfter, b.set)
	return func() {
		if !later.Stop() {
			b.reset()
		}
	}
}

func (b *busy) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds--; b.builds != 0 {
		return
	}
	for _, undo := range b.undo {
		undo()
	}
	b.undo = nil
}

func (b *busy) set() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds++; b.builds != 1 {
		return // the build may have ended just before
	}
	if cores := runtime.NumCPU(); runtime.GOMAXPROCS(0) == cores && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(busyThreads * cores)
		b.undo = append(b.undo, runtime.SetDefaultGOMAXPROCS)
	}
	if garbage() == usualGarbage {
		debug.SetGCPercent(busyGarbage)
		b.undo = append(b.undo, func() { debug.SetGCPercent(usualGarbage) })
	}
}

// garbage is what GOGC stands at.
func garbage() uint64 {
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(percent)
	return percent[0].Value.Uint64()
}
