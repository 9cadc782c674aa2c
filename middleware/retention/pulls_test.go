package retention

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
)

// nothingBuilt knows of no built image.
func nothingBuilt(context.Context, string, digest.Digest) (digest.Digest, bool, error) {
	return "", false, nil
}

// A pull is recorded once a day, by whichever replica, and the latest one counts. A record of the
// future is of a wrong clock: it counts as now from when it was seen.
func TestPullIsRecorded(t *testing.T) {
	state := recordstest.NewMemory()
	c := &clock{now: today}
	one, another := newPulls(state, nothingBuilt, c.Now), newPulls(state, nothingBuilt, c.Now)
	of := pull{"git", "latest"}
	check := func(when string, want time.Time) {
		t.Helper()
		if got, err := another.last(t.Context(), of, c.Now(), false); !got.Equal(want) || err != nil {
			t.Errorf("%s, the last pull was %v, %v, want %v", when, got, err, want)
		}
	}
	record := func(p *Pulls) {
		t.Helper()
		if err := p.record(t.Context(), of); err != nil {
			t.Fatal(err)
		}
	}
	check("before any", time.Time{})
	record(one)
	check("after one", today)
	c.pass(23 * time.Hour)
	record(another)
	check("within a day", today)
	c.pass(2 * time.Hour)
	record(another)
	check("after a day", today.Add(25*time.Hour))

	c.pass(365 * 24 * time.Hour)
	record(one)
	c.pass(-365 * 24 * time.Hour)
	check("from a clock that was wrong", c.Now())
	c.pass(time.Hour)
	check("an hour later", c.Now())
	if _, err := another.last(t.Context(), of, c.Now(), true); err != nil {
		t.Fatal(err)
	}
	mended := c.Now()
	c.pass(time.Hour)
	check("an hour after it was mended", mended)
	c.pass(365 * 24 * time.Hour)
	record(one)
	c.pass(-365 * 24 * time.Hour)
	record(another)
	c.pass(2 * time.Hour)
	check("two hours after somebody pulled again", c.Now().Add(-2*time.Hour))
}

// A digest counts if it stands for a built image: that of a form counts for what it is made of.
func TestPullByDigest(t *testing.T) {
	state := recordstest.NewMemory()
	form, image, pushed := digest.FromString("form"), digest.FromString("image"), digest.FromString("pushed")
	built := func(_ context.Context, repository string, manifest digest.Digest) (digest.Digest, bool, error) {
		return image, manifest != pushed && repository == "git", nil
	}
	c := &clock{now: today}
	p := newPulls(state, built, c.Now)
	for _, of := range []pull{{"git", pushed.String()}, {"git", form.String()}, {"own", form.String()}} {
		if err := p.record(t.Context(), of); err != nil {
			t.Fatal(err)
		}
	}
	if at, err := p.last(t.Context(), pull{"git", image.String()}, c.Now(), false); !at.Equal(today) || err != nil {
		t.Errorf("the image was pulled at %v, %v", at, err)
	}
	if len(state.Records) != 1 {
		t.Errorf("there are %d records", len(state.Records))
	}
}

// Noting a pull does not wait for the storage, and is repeated after a fault. There is room for so
// many, and nothing is noted once Pulls are closed.
func TestNote(t *testing.T) {
	state := recordstest.NewMemory()
	waiting, entered := make(chan struct{}), make(chan struct{}, maxQueued+10)
	blocking := func(context.Context, string, digest.Digest) (digest.Digest, bool, error) {
		entered <- struct{}{}
		<-waiting
		return "", false, errors.New("storage is down")
	}
	p, err := NewPulls(state, blocking)
	if err != nil {
		t.Fatal(err)
	}
	failing := digest.FromString("failing").String()
	p.Note("git", failing)
	<-entered // the writer waits now
	for i := range maxQueued + 5 {
		p.Note("git", fmt.Sprint("r", i))
	}
	close(waiting)
	p.Close(t.Context())
	if len(state.Records) != maxQueued {
		t.Errorf("%d pulls are recorded, of %d that were noted", len(state.Records), maxQueued+5)
	}
	if _, noted := p.noted.Get(pull{"git", failing}); noted {
		t.Error("what could not be recorded counts as noted")
	}
	p.Note("git", "late")
	p.Close(t.Context())
	var none *Pulls
	none.Note("git", "latest")
	none.Close(t.Context())
}

// Noting what is noted takes no memory.
func TestNoteOfNoted(t *testing.T) {
	p, err := NewPulls(recordstest.NewMemory(), nothingBuilt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	p.Note("git", "latest")
	if n := testing.AllocsPerRun(100, func() { p.Note("git", "latest") }); n > 0 {
		t.Errorf("it takes %v allocations", n)
	}
}

func BenchmarkNote(b *testing.B) {
	p, err := NewPulls(recordstest.NewMemory(), nothingBuilt)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(b.Context())
	for b.Loop() {
		p.Note("git", "latest")
	}
}
