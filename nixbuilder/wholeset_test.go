package nixbuilder

import (
	"maps"
	"slices"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

func TestRemoveIncomplete(t *testing.T) {
	for _, test := range []struct {
		name    string
		closure []store.PathInfo
		want    []string
	}{
		{"nothing", nil, nil},
		{"complete", closure("app-1: lib-1", "lib-1: lib-1"), []string{"app-1", "lib-1"}},
		{
			"what refers to what is not there, and so on",
			closure("app-1: lib-1", "lib-1: gone-1", "tool-1:", "other-1: tool-1 app-1"), []string{"tool-1"},
		},
		{"twice", closure("a-1: gone-1 away-1", "b-1: a-1 gone-1"), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			infos := make(map[store.Path]store.PathInfo)
			for _, info := range test.closure {
				infos[info.Path] = info
			}
			removeIncomplete(infos)
			var got []string
			for _, p := range slices.Sorted(maps.Keys(infos)) {
				got = append(got, p.Name())
			}
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("%v are left, want %v", got, test.want)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	infos := make(map[store.Path]store.PathInfo)
	for _, info := range closure("app-1: lib-1", "lib-1: lib-1 part-1", "part-1:", "tool-1: part-1") {
		infos[info.Path] = info
	}
	var got []string
	app, lib := storetest.Path("app-1"), storetest.Path("lib-1")
	for _, info := range store.Reachable(infos, []store.Path{app, lib, app}) {
		got = append(got, info.Path.Name())
	}
	slices.Sort(got)
	if want := []string{"app-1", "lib-1", "part-1"}; !slices.Equal(got, want) {
		t.Errorf("store.Reachable() = %v, want %v", got, want)
	}
}

// What is decided for all packages at once stays, and so does what was decided before.
func TestLayoutIsExtended(t *testing.T) {
	state := recordstest.NewMemory()
	l := newLayout(state)
	alone := closure("app-1: lib-1", "lib-1:")
	whole := closure("app-1: lib-1", "bar-1: lib-1 part-1", "foo-1: lib-1", "lib-1:", "part-1:")
	group(t, l, alone)
	for _, test := range []struct {
		name         string
		added, known int
		segments     int
	}{{"new", 3, 2, 2}, {"again", 0, 5, 2}} {
		added, known, err := newLayout(state).extend(t.Context(), whole)
		if err != nil || added != test.added || known != test.known || len(state.Records) != test.segments {
			t.Errorf(
				"%s: %d added, %d known, %v, %d segments; want %+v", test.name, added, known, err,
				len(state.Records), test,
			)
		}
	}
	got := group(t, l, whole)
	if len(got) != 3 || !slices.Equal(got[0], []store.Path{storetest.Path("app-1"), storetest.Path("lib-1")}) {
		t.Errorf("layers are %v, want app with lib as before, bar with part, foo", got)
	}
}
