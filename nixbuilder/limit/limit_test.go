package limit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := NewSlots(1)
		release, err := slots.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := slots.TryAcquire(); ok {
			t.Error("a second slot was free")
		}
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		if _, err := slots.Acquire(ctx); !errors.Is(err, gone) {
			t.Errorf("waiting ended with %v, want the cause", err)
		}
		acquired := false
		go func() {
			if _, err := slots.Acquire(t.Context()); err == nil {
				acquired = true
			}
		}()
		synctest.Wait()
		if acquired {
			t.Error("the slot was taken twice")
		}
		release()
		release() // once is enough
		synctest.Wait()
		if !acquired {
			t.Error("the slot was not given back")
		}
		if _, ok := slots.TryAcquire(); ok {
			t.Error("the second release gave back the slot of another")
		}
	})
}

func TestKeyed(t *testing.T) {
	var work Keyed
	release, other := work.Claim("a")
	if release == nil || other != nil {
		t.Fatal("nobody works, and the work is somebody else's")
	}
	if another, _ := work.Claim("b"); another == nil {
		t.Error("the work of one key keeps that of another")
	}
	again, other := work.Claim("a")
	if again != nil {
		t.Fatal("the same work was given out twice")
	}
	select {
	case <-other:
		t.Error("the work is over before it was released")
	default:
	}
	release()
	release()
	<-other
	if release, _ := work.Claim("a"); release == nil {
		t.Error("the work can't be claimed again when it is over")
	}
}
