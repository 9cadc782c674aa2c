package middleware

import (
	"sync"
	"time"
)

// gateQuiet is how long there must be nothing to make: images that are asked for one after the
// other are not held up by what each leaves to do.
const gateQuiet = 50 * time.Millisecond

// A gate has links wait while images are being made: both wait for the same disk, and a client
// waits for the image. It is safe for concurrent use.
type gate struct {
	mu     sync.Mutex
	making int           // images
	urgent int           // images that wait for links
	open   chan struct{} // closed while links may pass
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

// begin is called when an image is begun, and its end when it is committed.
func (g *gate) begin() (end func()) {
	g.add(&g.making, 1)
	return func() { time.AfterFunc(gateQuiet, func() { g.add(&g.making, -1) }) }
}

// hurry is called by who waits for links to be written, and its end when that is over.
func (g *gate) hurry() (end func()) {
	g.add(&g.urgent, 1)
	return func() { g.add(&g.urgent, -1) }
}

// pass returns when links may be written, or when late is closed.
func (g *gate) pass(late <-chan struct{}) {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
	case <-late:
	}
}

// add changes a counter, and opens or closes the gate.
func (g *gate) add(counter *int, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wasOpen := g.mayPass()
	*counter += n
	switch isOpen := g.mayPass(); {
	case isOpen && !wasOpen:
		close(g.open)
	case wasOpen && !isOpen:
		g.open = make(chan struct{})
	}
}

func (g *gate) mayPass() bool { return g.making == 0 || g.urgent > 0 }
