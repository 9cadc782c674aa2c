package limit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace has pieces of work of 50 ms, one after the other, for a minute. The process takes a part
// of two processors meanwhile.
func TestPace(t *testing.T) {
	const took = 50 * time.Millisecond
	for _, test := range []struct {
		name        string
		busy        float64 // processors
		least, most int     // pieces
	}{
		{"idle", 0, 1200, 1200}, // as many as there is time for
		{"half busy", 0.9, 1200, 1200},
		// A tenth of two processors is 12 s in a minute, which is 240 pieces, and a burst is 20.
		{"busy", 1.8, 240, 265},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				pace := newPace(0.1, 2, func() time.Duration {
					return time.Duration(test.busy * float64(time.Since(begun)))
				})
				done := 0
				for ; time.Since(begun) < time.Minute; done++ {
					settle, err := pace.Wait(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(took)
					settle(took)
				}
				if done < test.least || done > test.most {
					t.Errorf("%d pieces, want %d to %d", done, test.least, test.most)
				}
			})
		})
	}
}

// TestPaceOverdrawn has work that takes far more than there was, and others right after it.
func TestPaceOverdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		pace := newPace(0.1, 2, func() time.Duration { return 2 * time.Since(begun) })
		time.Sleep(time.Second)
		settle, err := pace.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		settle(time.Hour)
		cancelled, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := pace.Wait(cancelled); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("there is time for more: %v", err)
		}
		for range 3 { // each as long as the first, as far as is known
			waited := time.Now()
			if _, err := pace.Wait(t.Context()); err != nil || time.Since(waited) > 11*time.Second {
				t.Errorf("waited for %v: %v", time.Since(waited), err)
			}
		}
	})
}

func TestProcessorTime(t *testing.T) {
	for before := processorTime(); processorTime() < before+10*time.Millisecond; {
	}
}
