package records_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
)

// A sweep removes what is old and of no use, and what is old and damaged. It reads what is young only
// if somebody wants to know what stays.
func TestSweep(t *testing.T) {
	const old, young = 40, 40
	before := time.Now()
	state := recordstest.NewMemory()
	state.Times = make(map[string]time.Time)
	table := records.NewTable[int](state, "things", 0)
	other := records.NewTable[int](state, "others", 0)
	put := func(table *records.Table[int], n int) (path string) {
		t.Helper()
		key := records.Key(strconv.Itoa(n))
		if err := table.Put(t.Context(), key, n); err != nil {
			t.Fatal(err)
		}
		return table.Path(key)
	}
	for n := range old {
		put(table, n)
		put(other, n)
	}
	for n := range young {
		state.Times[put(table, old+n)] = before
	}
	state.Records[table.Path(records.Key("damaged"))] = []byte("damaged")

	sweep := records.Sweep[int]{Kind: "things", Before: before, Gone: func(_ context.Context, n int) (bool, error) {
		if n >= old {
			t.Errorf("%d is young", n)
		}
		return n%2 == 0, nil
	}}
	if removed, err := sweep.Run(t.Context(), state); removed != old/2+1 || err != nil {
		t.Errorf("%d records were removed, %v", removed, err)
	}
	if state.Gets > old+1 {
		t.Errorf("%d records were read", state.Gets)
	}
	var stay []int
	sweep.Stays = func(n int) { stay = append(stay, n) }
	if removed, err := sweep.Run(t.Context(), state); removed != 0 || err != nil {
		t.Errorf("once more, %d records were removed, %v", removed, err)
	}
	slices.Sort(stay)
	if len(stay) != old/2+young || slices.ContainsFunc(stay, func(n int) bool { return n < old && n%2 == 0 }) {
		t.Errorf("there stay %v", stay)
	}
	if len(state.Records) != old+old/2+young {
		t.Errorf("there are %d records", len(state.Records))
	}

	broken := errors.New("no telling")
	sweep.Gone = func(context.Context, int) (bool, error) { return true, broken }
	if removed, err := sweep.Run(t.Context(), state); removed != 0 || !errors.Is(err, broken) {
		t.Errorf("where it can't be told, %d records were removed, %v", removed, err)
	}
}

// A record that is of use again once it is deleted is put back.
func TestSweepRechecks(t *testing.T) {
	state := recordstest.NewMemory()
	table := records.NewTable[int](state, "things", 0)
	key := records.Key("a")
	if err := table.Put(t.Context(), key, 1); err != nil {
		t.Fatal(err)
	}
	sweep := records.Sweep[int]{Kind: "things", Before: time.Now(), Recheck: true}
	sweep.Gone = func(ctx context.Context, _ int) (bool, error) {
		_, there, err := table.Fresh(ctx, key)
		return there, err // until it is deleted
	}
	if removed, err := sweep.Run(t.Context(), state); removed != 0 || err != nil {
		t.Errorf("%d records were removed, %v", removed, err)
	}
	if n, ok, err := table.Fresh(t.Context(), key); n != 1 || !ok || err != nil {
		t.Errorf("the record is %d, %t, %v", n, ok, err)
	}
	if err := table.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := table.Get(t.Context(), key); ok || err != nil {
		t.Errorf("deleted, it is there: %t, %v", ok, err)
	}
	if err := table.Ensure(t.Context(), key, 2); err != nil {
		t.Fatal(err)
	}
	if err := table.Ensure(t.Context(), key, 3); err != nil {
		t.Fatal(err)
	}
	if n, ok, err := table.Get(t.Context(), key); n != 2 || !ok || err != nil {
		t.Errorf("ensured, it is %d, %t, %v", n, ok, err)
	}
}
