package retention

import (
	"context"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
)

// The watch begins anew after a gap, and when the clock jumps either way: nothing counts as unused
// that was not watched.
func TestWatch(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		name  string
		beats []time.Duration // after the first
		since time.Duration
	}{
		{name: "the first"},
		{name: "every day", beats: []time.Duration{day, 2 * day, 3 * day, 4 * day}},
		{name: "a weekend off", beats: []time.Duration{3 * day}},
		{name: "a week off", beats: []time.Duration{7 * day, 8 * day}, since: 7 * day},
		{name: "clocks of replicas that differ a little", beats: []time.Duration{day, day - time.Minute, day}},
		{name: "a clock that runs a year ahead", beats: []time.Duration{day, 366 * day, 367 * day}, since: 366 * day},
		{name: "and is set right", beats: []time.Duration{day, 366 * day, 2 * day, 3 * day}, since: 2 * day},
		{name: "a clock of 1970", beats: []time.Duration{day, -57 * 365 * day, 2 * day, 3 * day}, since: 2 * day},
	} {
		t.Run(test.name, func(t *testing.T) {
			record := newWatchRecord(recordstest.NewMemory())
			for _, at := range append([]time.Duration{0}, test.beats...) {
				if _, err := record.beat(t.Context(), today.Add(at)); err != nil {
					t.Fatal(err)
				}
			}
			last := today.Add(0)
			if n := len(test.beats); n > 0 {
				last = today.Add(test.beats[n-1])
			}
			w, err := record.read(t.Context(), last)
			if err != nil || !w.Since.Equal(today.Add(test.since)) {
				t.Errorf("it began at %v, %v, want %v", w.Since, err, today.Add(test.since))
			}
		})
	}
}

// A registry that was off for long, and one whose clock jumps, take nothing as unused that may have
// been in use.
func TestNothingUnusedAfterAJump(t *testing.T) {
	for _, jump := range []time.Duration{400 * 24 * time.Hour, -400 * 24 * time.Hour} {
		r := newRegistry(t)
		limits := Limits{Unused: 30 * 24 * time.Hour}
		serving := r.retention(limits)
		r.build(t, "git", "r1", []string{"latest"}, manifest("built", v1.Descriptor{}))
		days := func(n int) {
			t.Helper()
			for range n {
				if err := serving.tick(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.pass(24 * time.Hour)
			}
		}
		days(20)
		r.pass(jump)
		days(20)
		r.pass(-jump)
		days(30)
		if got := r.tags(t, "git"); len(got) != 2 {
			t.Errorf("after a jump by %v there are %q", jump, got)
		}
		days(5)
		if got := r.tags(t, "git"); len(got) != 0 {
			t.Errorf("unused for more than 30 days, there are %q", got)
		}
	}
}

// One run a day is made by whichever replica, and none while another one makes it.
func TestTick(t *testing.T) {
	r := newRegistry(t)
	for _, revision := range []string{"r1", "r2", "r3", "r4"} {
		r.build(t, "git", revision, nil, manifest(revision, v1.Descriptor{}))
		r.pass(time.Hour)
	}
	r.pass(time.Hour)
	taken, asked := true, 0
	serving := r.retention(Limits{Keep: 3})
	serving.options.Lease = func(context.Context, string) (func(), bool) {
		asked++
		return func() {}, !taken
	}
	tick := func(when string, tags, leases int) {
		t.Helper()
		if err := serving.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.tags(t, "git"); len(got) != tags || asked != leases {
			t.Errorf("%s there are %q, and a lease was asked for %d times", when, got, asked)
		}
	}
	tick("while another replica does it,", 4, 1)
	taken = false
	tick("at first", 3, 2)
	r.build(t, "git", "r5", nil, manifest("r5", v1.Descriptor{}))
	r.pass(2 * time.Hour)
	tick("two hours later", 4, 2)
	r.pass(22 * time.Hour)
	tick("a day later", 3, 3)
}
