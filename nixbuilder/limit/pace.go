package limit

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// paceBusy is the part of the processors above which this process is busy.
	paceBusy = 0.5
	// paceLook is how long the use of the processors is measured at least before it is believed.
	paceLook = 100 * time.Millisecond
	// paceBurst is how many seconds of its part paced work may take at once.
	paceBurst = 5
)

// A Pace keeps the work of other processes to a part of the processors while this process is busy:
// while it takes more than half of them, to serve or to pack. While it is not, nothing waits. So
// the processors are never idle for it, and what is served does not suffer from what others ask.
//
// A low priority alone does not do this. What is served waits for the network at every turn, other
// programs run meanwhile, and do not leave a processor the moment that they should.
//
// It is safe for concurrent use.
type Pace struct {
	rate  float64 // processor time for a unit of time
	cores float64
	used  func() time.Duration // the processor time of this process until now

	mu     sync.Mutex
	credit time.Duration // of processor time; below zero, work waits while this process is busy
	each   time.Duration // what a piece of work took last
	busy   bool
	at     time.Time     // when it was looked last
	before time.Duration // what used said then
}

// NewPace leaves a part of the processors, from 0 to 1, to paced work.
func NewPace(part float64) *Pace { return newPace(part, runtime.GOMAXPROCS(0), processorTime) }

func newPace(part float64, cores int, used func() time.Duration) *Pace {
	p := &Pace{rate: part * float64(cores), cores: float64(cores), used: used, at: time.Now(), before: used()}
	p.credit = p.burst()
	return p
}

// Wait waits until there is processor time for a piece of work. When that has ended, done is called
// with the time that it has taken. The error is the cause of the end of ctx.
func (p *Pace) Wait(ctx context.Context) (done func(took time.Duration), err error) {
	for {
		charged, wait := p.charge(time.Now())
		if wait == 0 {
			return func(took time.Duration) { p.settle(took, charged) }, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// charge takes from the credit what the work will take if it is like the last. If there is no
// credit, it tells how long to wait before asking again.
func (p *Pace) charge(now time.Time) (charged, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if passed := now.Sub(p.at); passed >= paceLook {
		used := p.used()
		p.busy = float64(used-p.before) > paceBusy*p.cores*float64(passed)
		p.credit = min(p.credit+time.Duration(p.rate*float64(passed)), p.burst())
		p.at, p.before = now, used
	}
	if p.busy && p.credit <= 0 {
		return 0, paceLook
	}
	charged = min(p.each, p.credit+p.burst())
	p.credit -= charged
	return charged, 0
}

// settle corrects the charge. The credit is overdrawn by a burst at most: one piece of work that
// takes long keeps the next one waiting for paceBurst seconds, not for minutes.
func (p *Pace) settle(took, charged time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.each = took
	p.credit = max(p.credit+charged-took, -p.burst())
}

func (p *Pace) burst() time.Duration { return time.Duration(paceBurst * p.rate * float64(time.Second)) }

// processorTime is what this process has taken, the kernel's work for it included.
func processorTime() time.Duration {
	var usage unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &usage) // fails for no valid argument
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
