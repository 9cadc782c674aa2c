package limit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLanes(t *testing.T) {
	type outcome struct {
		ended, slowed time.Duration // since the beginning; slowed is zero if it was not
		runs          int
	}
	for _, test := range []struct {
		name        string
		concurrency int
		work        []time.Duration // how long each takes; they come one nanosecond after another
		want        []outcome
	}{
		{"quick", 1, []time.Duration{3, 4}, []outcome{{3, 0, 1}, {7, 0, 1}}},
		{"slow goes on", 1, []time.Duration{30}, []outcome{{30, 10, 1}}},
		{"quick waits for slow until its time is up", 1, []time.Duration{30, 4}, []outcome{{30, 10, 1}, {14, 0, 1}}},
		{
			"slow begins again once others that are slow have ended", 1, []time.Duration{30, 30, 4, 4},
			[]outcome{{30, 10, 1}, {60, 20, 2}, {24, 0, 1}, {28, 0, 1}},
		},
		{
			"two at a time", 2, []time.Duration{30, 30, 30, 4},
			[]outcome{{30, 10, 1}, {30, 10, 1}, {60, 20, 2}, {14, 0, 1}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lanes := NewLanes(test.concurrency, test.concurrency, 10*time.Second)
				got := make([]outcome, len(test.work))
				begun := time.Now()
				for i, seconds := range test.work {
					go func() {
						err := lanes.Do(t.Context(), Asker{}, func(ctx context.Context) error {
							got[i].runs++
							select {
							case <-time.After(seconds * time.Second):
								return nil
							case <-ctx.Done():
								return context.Cause(ctx)
							}
						}, func() { got[i].slowed = time.Since(begun).Truncate(time.Second) / time.Second })
						if err != nil {
							t.Errorf("work %d: %v", i, err)
						}
						got[i].ended = time.Since(begun).Truncate(time.Second) / time.Second
					}()
					synctest.Wait() // it has its place, or is the next to get one
					time.Sleep(time.Nanosecond)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				for i, want := range test.want {
					if got[i] != want {
						t.Errorf("work %d: %+v, want %+v", i, got[i], want)
					}
				}
				if lanes.quick.free+lanes.slow.free != 2*test.concurrency {
					t.Error("slots are still taken")
				}
			})
		})
	}
}

func TestLanesEnd(t *testing.T) {
	failure := errors.New("failure")
	for _, test := range []struct {
		name string
		work func(ctx context.Context) error
		want error
	}{
		{"quick", func(context.Context) error { return failure }, failure},
		{"slow", func(context.Context) error { time.Sleep(time.Minute); return failure }, failure},
		{
			"cancelled", func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
			context.DeadlineExceeded,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lanes := NewLanes(1, 1, time.Second)
				for _, occupied := range []bool{false, true} {
					if occupied {
						release, ok := lanes.slow.TryAcquire(Asker{})
						if !ok {
							t.Fatal("the slow slot is taken")
						}
						time.AfterFunc(time.Minute, release)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					if err := lanes.Do(ctx, Asker{}, test.work, func() {}); !errors.Is(err, test.want) {
						t.Errorf("slow slots are taken: %t: %v, want %v", occupied, err, test.want)
					}
					cancel()
					time.Sleep(time.Hour)
					if lanes.quick.free+lanes.slow.free != 2 {
						t.Error("slots are still taken")
					}
				}
			})
		})
	}
}
