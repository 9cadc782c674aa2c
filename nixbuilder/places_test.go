package nixbuilder

import (
	"context"
	"testing"
)

func TestPlaces(t *testing.T) {
	for _, test := range []struct{ n, byClient int }{{1, 1}, {2, 1}, {3, 2}, {4, 3}, {8, 6}, {102, 77}} {
		p := newPlaces(test.n)
		full, cancel := context.WithCancel(t.Context())
		cancel()
		var leave []func()
		for {
			one, ok := p.tryEnter(true)
			if !ok {
				break
			}
			leave = append(leave, one)
		}
		if len(leave) != test.byClient {
			t.Errorf("of %d places, work that clients choose takes %d, want %d", test.n, len(leave), test.byClient)
		}
		if _, err := p.enter(full, true); err == nil {
			t.Errorf("of %d places, work that clients choose takes one more", test.n)
		}
		for range test.n - test.byClient {
			one, err := p.enter(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, one)
		}
		if _, ok := p.tryEnter(false); ok {
			t.Errorf("%d places are more", test.n)
		}
		for _, one := range leave {
			one()
		}
		if len(p.all)+len(p.byClient) != 0 {
			t.Error("places are still taken")
		}
	}
}
