package limit

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestShared(t *testing.T) {
	for _, test := range []struct{ n, byClient int }{{1, 1}, {2, 1}, {3, 2}, {4, 3}, {8, 6}, {102, 77}} {
		p := NewShared(test.n)
		full, cancel := context.WithCancel(t.Context())
		cancel()
		var release []func()
		for {
			one, ok := p.TryAcquire(Asker{ByClient: true})
			if !ok {
				break
			}
			release = append(release, one)
		}
		if len(release) != test.byClient {
			t.Errorf("of %d slots, work that clients choose takes %d, want %d", test.n, len(release), test.byClient)
		}
		if _, err := p.Acquire(full, Asker{ByClient: true}); err == nil {
			t.Errorf("of %d slots, work that clients choose takes one more", test.n)
		}
		for range test.n - test.byClient {
			one, err := p.Acquire(t.Context(), Asker{})
			if err != nil {
				t.Fatal(err)
			}
			release = append(release, one)
		}
		if _, ok := p.TryAcquire(Asker{}); ok {
			t.Errorf("%d slots are more", test.n)
		}
		for _, one := range release {
			one()
			one() // once is enough
		}
		if p.free != test.n || p.byClient != test.byClient || len(p.turns)+len(p.held) > 0 {
			t.Errorf("of %d slots, %d and %d are free, and %d clients wait", test.n, p.free, p.byClient, len(p.turns))
		}
	}
}

// Clients take turns, and each gets its own work in order. One that has asked for much keeps others
// waiting for one piece of it.
func TestSharedTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := NewShared(1)
		var done []string
		for _, ask := range []string{"a1", "a2", "a3", "a4", "b1", "b2", "c1"} {
			go func() {
				release, err := slots.Acquire(t.Context(), Asker{Client: ask[:1]})
				if err != nil {
					t.Error(err)
					return
				}
				defer release()
				time.Sleep(time.Second)
				done = append(done, ask)
			}()
			synctest.Wait() // so that they ask in this order
		}
		time.Sleep(time.Minute)
		if got := strings.Join(done, " "); got != "a1 b1 a2 c1 b2 a3 a4" {
			t.Errorf("the order was %s", got)
		}
	})
}

// Who no longer waits gets no slot, and takes none from others.
func TestSharedLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := NewShared(1)
		release, ok := slots.TryAcquire(Asker{})
		if !ok {
			t.Fatal("no slot is free")
		}
		leaving, leave := context.WithCancel(t.Context())
		var got []string
		for name, ctx := range map[string]context.Context{"leaves": leaving, "stays": t.Context()} {
			go func() {
				if _, err := slots.Acquire(ctx, Asker{Client: name}); err == nil {
					got = append(got, name)
				}
			}()
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		release()
		synctest.Wait()
		if !slices.Equal(got, []string{"stays"}) || len(slots.turns) > 0 {
			t.Errorf("%q have a slot, and %d clients wait", got, len(slots.turns))
		}
	})
}

// What clients choose waits for its share, and others of the same client pass it.
func TestSharedShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := NewShared(2)
		first, ok := slots.TryAcquire(Asker{ByClient: true})
		if !ok {
			t.Fatal("no slot is free")
		}
		got := make(chan string, 2)
		for _, byClient := range []bool{true, false} {
			go func() {
				if _, err := slots.Acquire(t.Context(), Asker{Client: "a", ByClient: byClient}); err == nil {
					got <- map[bool]string{true: "chosen", false: "configured"}[byClient]
				}
			}()
			synctest.Wait()
		}
		if now := <-got; now != "configured" {
			t.Errorf("%s has a slot", now)
		}
		first()
		if now := <-got; now != "chosen" {
			t.Errorf("%s has a slot", now)
		}
	})
}
