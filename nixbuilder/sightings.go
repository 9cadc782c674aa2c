package nixbuilder

import (
	"context"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// seenCached is how much of sightings is in memory, in bytes.
const seenCached = 1 << 20

// seenKind is where they are in the State.
const seenKind = "seen"

// sightings remember the commits that a configured name stood for: a source.Memory. Clients may
// choose these by their tags, even when no branch leads to them any more.
type sightings struct {
	records  *records.Table[sighting]
	kind, of string // the repository, or where archives come from
}

type sighting struct {
	Of     string `json:"of"`
	Commit string `json:"commit"`
}

func newSightings(state records.State, kind, of string) sightings {
	return sightings{records.NewTable[sighting](state, seenKind, seenCached), kind, of}
}

func (s sightings) Seen(ctx context.Context, commit string) (bool, error) {
	_, known, err := s.records.Get(ctx, records.Key(s.kind, s.of, commit))
	return known, err
}

func (s sightings) See(ctx context.Context, commit string) error {
	return s.records.Put(ctx, records.Key(s.kind, s.of, commit), sighting{s.of, commit})
}
