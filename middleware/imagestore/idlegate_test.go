package imagestore

import (
	"testing"
	"testing/synctest"
	"time"
)

// The gate is closed while images are made and for a moment after, but not when somebody needs the
// work behind it, nor for ever.
func TestIdleGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newIdleGate()
		passed := func(wait time.Duration, want bool) {
			t.Helper()
			time.Sleep(wait)
			done := make(chan struct{})
			never := make(chan struct{})
			go func() {
				defer close(done)
				g.wait(never)
			}()
			synctest.Wait()
			got := false
			select {
			case <-done:
				got = true
			default:
			}
			if got != want {
				t.Errorf("links pass: %v, want %v", got, want)
			}
			late := make(chan struct{})
			close(late)
			g.wait(late)
			if !got {
				end := g.urgent() // so that the goroutine ends
				<-done
				end()
			}
		}
		passed(0, true)
		first, second := g.making(), g.making()
		passed(0, false)
		first()
		passed(2*idleAfter, false)
		needed := g.urgent()
		passed(0, true)
		needed()
		passed(0, false)
		second()
		passed(idleAfter/2, false)
		third := g.making()
		passed(idleAfter, false)
		third()
		passed(idleAfter/2, false)
		passed(idleAfter, true)
	})
}
