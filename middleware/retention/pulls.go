package retention

import (
	"context"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

const (
	// recordEvery is how often a pull of the same tag is recorded.
	recordEvery = 24 * time.Hour
	// notedKept is of how many tags it is known in memory that a pull was recorded lately.
	notedKept = 10_000
	// maxQueued is how many pulls wait to be recorded. More are recorded the next time.
	maxQueued = 1000
	// pullsKind is where pulls are in the State.
	pullsKind = "pulls"
)

// Pulls record when images were pulled last. They are safe for concurrent use.
type Pulls struct {
	table *records.Table[pullRecord]
	built func(ctx context.Context, repository string, manifest digest.Digest) (digest.Digest, bool, error)
	now   func() time.Time
	noted *lru.Cache[pull, time.Time]

	mu     sync.RWMutex // guards closed, and queue against being closed while it is sent to
	closed bool
	queue  chan pull
	done   chan struct{} // closed when the last one was written
}

// A pull is of a tag or a digest.
type pull struct{ repository, reference string }

type pullRecord struct {
	Repository string    `json:"repository"`
	Reference  string    `json:"reference"`
	At         time.Time `json:"at"`
}

// NewPulls returns Pulls that write until Close. Built tells which built image a digest stands for.
func NewPulls(
	state records.State,
	built func(ctx context.Context, repository string, manifest digest.Digest) (digest.Digest, bool, error),
) (*Pulls, error) {
	p := newPulls(state, built, time.Now)
	var err error
	if p.noted, err = lru.New[pull, time.Time](notedKept); err != nil {
		return nil, err
	}
	go p.write()
	return p, nil
}

func newPulls(
	state records.State,
	built func(ctx context.Context, repository string, manifest digest.Digest) (digest.Digest, bool, error),
	now func() time.Time,
) *Pulls {
	return &Pulls{
		table: records.NewTable[pullRecord](state, pullsKind, 0), built: built, now: now,
		queue: make(chan pull, maxQueued), done: make(chan struct{}),
	}
}

// Note has a pull recorded: of a tag that has a built image, or of a digest of whatever. It does not
// wait, and nearly always does nothing, as the pull was recorded within a day. Of nil Pulls it does
// nothing.
func (p *Pulls) Note(repository, reference string) {
	if p == nil {
		return
	}
	of, now := pull{repository, reference}, p.now()
	if at, ok := p.noted.Get(of); ok && within(at, now) {
		return
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return
	}
	select {
	case p.queue <- of:
		p.noted.Add(of, now)
	default:
	}
}

// within tells whether a pull was recorded so lately that it need not be again. A time in the future
// is of a clock that was wrong.
func within(at, now time.Time) bool {
	return now.Sub(at) < recordEvery && at.Sub(now) < clockSlack
}

// write records the pulls that are noted.
func (p *Pulls) write() {
	defer close(p.done)
	failed := false
	for of := range p.queue {
		err := p.record(context.Background(), of)
		if err != nil {
			p.noted.Remove(of) // the next pull will be noted again
			if !failed {
				logrus.WithError(err).Warn("nix: pulls can't be recorded, by which retention knows which images are used")
			}
		}
		failed = err != nil
	}
}

// record writes that something was pulled, unless it is recorded lately, by whichever replica.
func (p *Pulls) record(ctx context.Context, of pull) error {
	if strings.Contains(of.reference, ":") {
		image, ok, err := p.built(ctx, of.repository, digest.Digest(of.reference))
		if err != nil || !ok {
			return err
		}
		of.reference = image.String()
	}
	now := p.now()
	before, ok, err := p.table.Fresh(ctx, of.key())
	if err != nil || ok && within(before.At, now) {
		return err
	}
	return p.put(ctx, of, now)
}

func (p *Pulls) put(ctx context.Context, of pull, at time.Time) error {
	return p.table.Put(ctx, of.key(), pullRecord{of.repository, of.reference, at.UTC()})
}

func (of pull) key() string { return records.Key(of.repository, of.reference) }

// last returns when something was pulled last; zero: that is not known. A record of the future was
// made by a wrong clock: it counts as now, and says so from then on.
func (p *Pulls) last(ctx context.Context, of pull, now time.Time, mend bool) (time.Time, error) {
	record, ok, err := p.table.Fresh(ctx, of.key())
	if err != nil || !ok {
		return time.Time{}, err
	}
	if record.At.Sub(now) < clockSlack {
		return record.At, nil
	}
	if mend {
		err = p.put(ctx, of, now)
	}
	return now, err
}

// Close records what was noted, until ctx ends. Pulls after that are not recorded.
func (p *Pulls) Close(ctx context.Context) {
	if p == nil {
		return
	}
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.queue)
	}
	p.mu.Unlock()
	select {
	case <-p.done:
	case <-ctx.Done():
	}
}
