package imagestore

import (
	"sync"
	"time"
)

// idleAfter is how long there must be nothing to make before the gate opens. Images that are asked
// for one after the other are then not slowed down by what each leaves to be done.
const idleAfter = 50 * time.Millisecond

// An idleGate has background work wait while images are made: both wait for the same disk, and a
// client waits for the image. It is safe for concurrent use.
type idleGate struct {
	mu     sync.Mutex
	images int           // being made
	needs  int           // of clients or commits that need the background work
	open   chan struct{} // closed while the background work may go on
}

func newIdleGate() *idleGate {
	g := &idleGate{open: make(chan struct{})}
	close(g.open)
	return g
}

// making is called when an image is begun, and made when it is committed or has failed.
func (g *idleGate) making() (made func()) {
	g.add(&g.images, 1)
	return func() { time.AfterFunc(idleAfter, func() { g.add(&g.images, -1) }) }
}

// urgent opens the gate until over is called, whatever is being made.
func (g *idleGate) urgent() (over func()) {
	g.add(&g.needs, 1)
	return func() { g.add(&g.needs, -1) }
}

// wait returns when the gate is open, or when late is closed.
func (g *idleGate) wait(late <-chan struct{}) {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
	case <-late:
	}
}

// add changes a counter, and opens or closes the gate.
func (g *idleGate) add(counter *int, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wasOpen := g.isOpen()
	*counter += n
	switch isOpen := g.isOpen(); {
	case isOpen && !wasOpen:
		close(g.open)
	case wasOpen && !isOpen:
		g.open = make(chan struct{})
	}
}

func (g *idleGate) isOpen() bool { return g.images == 0 || g.needs > 0 }
