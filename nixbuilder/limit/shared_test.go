package limit

import (
	"context"
	"testing"
)

func TestShared(t *testing.T) {
	for _, test := range []struct{ n, byClient int }{{1, 1}, {2, 1}, {3, 2}, {4, 3}, {8, 6}, {102, 77}} {
		p := NewShared(test.n)
		full, cancel := context.WithCancel(t.Context())
		cancel()
		var release []func()
		for {
			one, ok := p.TryAcquire(true)
			if !ok {
				break
			}
			release = append(release, one)
		}
		if len(release) != test.byClient {
			t.Errorf("of %d slots, work that clients choose takes %d, want %d", test.n, len(release), test.byClient)
		}
		if _, err := p.Acquire(full, true); err == nil {
			t.Errorf("of %d slots, work that clients choose takes one more", test.n)
		}
		for range test.n - test.byClient {
			one, err := p.Acquire(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			release = append(release, one)
		}
		if _, ok := p.TryAcquire(false); ok {
			t.Errorf("%d slots are more", test.n)
		}
		for _, one := range release {
			one()
		}
		if len(p.all)+len(p.byClient) != 0 {
			t.Error("slots are still taken")
		}
	}
}
