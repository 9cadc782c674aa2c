package retention

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

const (
	// gap is how long no registry may have been there to record pulls, or by how much a clock may have
	// jumped, for images to count as unused meanwhile.
	gap = 72 * time.Hour
	// clockSlack is how far the clocks of replicas may be apart.
	clockSlack = time.Hour
)

// A watch tells since when pulls are recorded without a gap.
type watch struct {
	Since time.Time `json:"since"`
	// Last is when a registry said last that it records pulls.
	Last time.Time `json:"last"`
	// Ran is when all repositories were gone through last.
	Ran time.Time `json:"ran"`
}

// at returns the watch as it is now. It begins anew if nobody watched for a while, and if the clock
// has jumped: it can't be told then what was pulled when.
func (w watch) at(now time.Time) watch {
	if w.Last.IsZero() || now.Sub(w.Last) > gap || w.Last.Sub(now) > clockSlack {
		w.Since = now
	}
	if w.Last = now; w.Ran.After(now.Add(clockSlack)) {
		w.Ran = time.Time{}
	}
	return w
}

// A watchRecord is the one watch of a registry.
type watchRecord struct{ table *records.Table[watch] }

func newWatchRecord(state records.State) watchRecord {
	return watchRecord{records.NewTable[watch](state, "retention", 0)}
}

var watchKey = records.Key("watch")

// read returns the watch as it is now, which beat would write.
func (r watchRecord) read(ctx context.Context, now time.Time) (watch, error) {
	before, _, err := r.table.Fresh(ctx, watchKey)
	return before.at(now), err
}

// beat says that pulls are recorded.
func (r watchRecord) beat(ctx context.Context, now time.Time) (watch, error) {
	before, ok, err := r.table.Fresh(ctx, watchKey)
	if err != nil {
		return watch{}, err
	}
	w := before.at(now)
	if ok && w.Since.Equal(now) && !before.Since.Equal(now) {
		logrus.Warnf("nix: pulls were not recorded from %s to %s, or the clock has jumped: images count as pulled now",
			before.Last.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return w, r.table.Put(ctx, watchKey, w)
}

// ran says that all repositories were gone through.
func (r watchRecord) ran(ctx context.Context, now time.Time) error {
	w, err := r.read(ctx, now)
	if err != nil {
		return err
	}
	w.Ran = now
	return r.table.Put(ctx, watchKey, w)
}
