package records_test

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
)

func TestTable(t *testing.T) {
	type value struct{ N int }
	key := records.Key("a")
	unavailable := errors.New("storage is down")
	sealed := func(value any) string {
		record, err := records.Seal(value)
		if err != nil {
			t.Fatal(err)
		}
		return string(record)
	}
	seven := sealed(value{7})
	for _, test := range []struct {
		name    string
		record  string
		fail    error
		want    int
		ok      bool
		wantErr error
	}{
		{name: "none"},
		{name: "there", record: seven, want: 7, ok: true},
		{name: "damaged counts as none", record: seven[:len(seven)-1]},
		{name: "damaged, but still JSON, counts as none", record: strings.Replace(seven, "7}", "9}", 1)},
		{name: "without a checksum counts as none", record: `{"N":7}`},
		{name: "of another type counts as none", record: sealed(map[string]string{"N": "seven"})},
		{name: "storage down is not none", record: seven, fail: unavailable, wantErr: unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			state := recordstest.NewMemory()
			table := records.NewTable[value](state, "things", 1000)
			if test.record != "" {
				state.Records[table.Path(key)] = []byte(test.record)
			}
			state.Err = test.fail
			got, ok, err := table.Get(t.Context(), key)
			if got.N != test.want || ok != test.ok || !errors.Is(err, test.wantErr) {
				t.Errorf("Get = %+v, %t, %v", got, ok, err)
			}
			state.Err = nil
			if err := table.Put(t.Context(), key, value{8}); err != nil {
				t.Fatal(err)
			}
			got, ok, err = records.NewTable[value](state, "things", 1000).Get(t.Context(), key)
			if got.N != 8 || !ok ||
				err != nil {
				t.Errorf("after Put, another replica's Get = %+v, %t, %v", got, ok, err)
			}
			before := state.Gets
			if got, ok, err := table.Get(t.Context(), key); got.N != 8 || !ok || err != nil || state.Gets != before {
				t.Errorf("after Put, Get = %+v, %t, %v, with %d reads", got, ok, err, state.Gets-before)
			}
		})
	}
}

// Records in memory are bounded by their bytes, however they come there, and stay in the State.
func TestRecordsInMemoryAreBounded(t *testing.T) {
	state := recordstest.NewMemory()
	const most = 100_000
	table := records.NewTable[string](state, "things", most)
	large := strings.Repeat("x", most/10)
	for i := range 40 {
		key := records.Key(strconv.Itoa(i))
		if err := table.Put(t.Context(), key, large); err != nil {
			t.Fatal(err)
		}
		table.Recall(records.Key("recalled", strconv.Itoa(i)), large)
	}
	if got := table.CachedBytes(); got > most || got < most/2 {
		t.Errorf("%d bytes are in memory, %d may be", got, most)
	}
	for i := range 40 {
		if got, ok, err := table.Get(t.Context(), records.Key(strconv.Itoa(i))); got != large || !ok || err != nil {
			t.Errorf("Get = %d bytes, %t, %v", len(got), ok, err)
		}
	}
	if got := table.CachedBytes(); got > most || got < most/2 {
		t.Errorf("after they were read, %d bytes are in memory, %d may be", got, most)
	}
}

// Many records are asked for side by side: the State of this test answers none before as many are
// asked for as may be.
func TestRecordsSideBySide(t *testing.T) {
	together := make(chan struct{})
	state := &meetings{Memory: recordstest.NewMemory(), want: records.AtOnce, met: together}
	table := records.NewTable[int](state, "things", 100_000)
	values := make(map[string]int)
	keys := []string{records.Key("none")}
	for i := range records.AtOnce - 1 {
		key := records.Key(strconv.Itoa(i))
		values[key] = i
		keys = append(keys, key)
	}
	if err := table.PutAll(t.Context(), values); err != nil {
		t.Fatal(err)
	}
	got, err := records.NewTable[int](state, "things", 100_000).GetAll(t.Context(), keys)
	if err != nil || !maps.Equal(got, values) {
		t.Errorf("GetAll = %v, %v, want %v", got, err, values)
	}
	state.Err = errors.New("storage is down")
	got, err = records.NewTable[int](state, "things", 100_000).GetAll(t.Context(), keys)
	if !errors.Is(err, state.Err) {
		t.Errorf("GetAll = %v, %v, want the error of the storage", got, err)
	}
	if err := table.PutAll(t.Context(), values); !errors.Is(err, state.Err) {
		t.Errorf("PutAll = %v, want the error of the storage", err)
	}
}

// meetings is a memory whose Get returns when a number of callers are in it.
type meetings struct {
	*recordstest.Memory
	mu   sync.Mutex
	want int
	met  chan struct{}
}

func (m *meetings) Get(ctx context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	if m.want--; m.want == 0 {
		close(m.met)
	}
	m.mu.Unlock()
	<-m.met
	return m.Memory.Get(ctx, key)
}

func TestKeysDiffer(t *testing.T) {
	seen := make(map[string][]string)
	for _, parts := range [][]string{
		{}, {""}, {"", ""}, {"a"}, {"a", ""}, {"", "a"}, {"ab"}, {"a", "b"}, {"1:a"}, {"a1:b"},
	} {
		key := records.Key(parts...)
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the same key", parts, other)
		}
		seen[key] = parts
	}
}
