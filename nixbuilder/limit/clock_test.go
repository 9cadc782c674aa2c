package limit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, clock := NewClock(t.Context(), time.Minute)
		defer clock.Stop()
		begun := time.Now()
		time.Sleep(40 * time.Second)
		for range 2 {
			if err := clock.Wait(func() error { time.Sleep(time.Hour); return nil }); err != nil || ctx.Err() != nil {
				t.Fatalf("time that is waited counts: %v, %v", err, context.Cause(ctx))
			}
		}
		<-ctx.Done()
		if took := time.Since(begun); took != 2*time.Hour+time.Minute || !errors.Is(context.Cause(ctx), ErrTime) {
			t.Errorf("ended after %v: %v", took, context.Cause(ctx))
		}
		failure := errors.New("failure")
		if err := clock.Wait(func() error { return failure }); !errors.Is(err, failure) {
			t.Errorf("the error is %v, want %v", err, failure)
		}
	})
}
