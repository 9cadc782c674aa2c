package middleware

import (
	"testing"
	"testing/synctest"
	"time"
)

// Links wait while images are made and for a moment after, but not when somebody waits for them,
// nor for ever.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		passed := func(wait time.Duration, want bool) {
			t.Helper()
			time.Sleep(wait)
			done := make(chan struct{})
			never := make(chan struct{})
			go func() {
				defer close(done)
				g.pass(never)
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
			g.pass(late)
			if !got {
				end := g.hurry() // so that the goroutine ends
				<-done
				end()
			}
		}
		passed(0, true)
		first, second := g.begin(), g.begin()
		passed(0, false)
		first()
		passed(2*gateQuiet, false)
		hurried := g.hurry()
		passed(0, true)
		hurried()
		passed(0, false)
		second()
		passed(gateQuiet/2, false)
		third := g.begin()
		passed(gateQuiet, false)
		third()
		passed(gateQuiet/2, false)
		passed(gateQuiet, true)
	})
}
