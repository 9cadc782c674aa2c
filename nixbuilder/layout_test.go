package nixbuilder

import (
	"reflect"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

// closure makes one of small paths: "app: lib" is a path app that refers to lib.
func closure(lines ...string) []store.PathInfo {
	var infos []store.PathInfo
	for _, line := range lines {
		name, references, _ := strings.Cut(line, ":")
		info := store.PathInfo{Path: storetest.Path(name), NarSize: 1000}
		for _, r := range strings.Fields(references) {
			info.References = append(info.References, storetest.Path(r))
		}
		infos = append(infos, info)
	}
	return infos
}

func group(t *testing.T, l *layout, infos []store.PathInfo) [][]store.Path {
	t.Helper()
	groups, _, err := l.group(t.Context(), infos, 94, true)
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

func TestLayoutIsKept(t *testing.T) {
	// Alone, lib goes with app. After an image in which two others need it too, it goes alone.
	alone := closure("app-1: lib-1", "lib-1:")
	shared := closure("app-1: lib-1", "bar-1: lib-1", "foo-1: lib-1", "lib-1:")
	together := [][]store.Path{{storetest.Path("app-1"), storetest.Path("lib-1")}}

	state := recordstest.NewMemory()
	first := newLayout(state)
	if got := group(t, first, alone); !reflect.DeepEqual(got, together) {
		t.Fatalf("the first image's layers are %v, want %v", got, together)
	}
	for name, l := range map[string]*layout{"the same replica": first, "another replica": newLayout(state)} {
		if got := group(t, l, shared); !reflect.DeepEqual(got[0], together[0]) {
			t.Errorf("%s puts app and lib into %v, want them together as before", name, got)
		}
		if got := group(t, l, closure("app-2: lib-2", "lib-2:")); len(got) != 1 {
			t.Errorf("%s splits the next versions: %v", name, got)
		}
	}
	if got := group(t, newLayout(recordstest.NewMemory()), shared); len(got) != 4 {
		t.Errorf("without what was kept, the layers are %v: the test shows nothing", got)
	}
}

// Whoever chooses a revision decides about the layers of his own image, and of no other.
func TestLayoutOfClients(t *testing.T) {
	hostile := closure("evil-1: lib-1 foo-1 bar-1", "bar-1:", "foo-1:", "lib-1:")
	app := closure("app-1: lib-1", "lib-1:")
	both := closure("app-1: lib-1", "tool-1: lib-1 foo-1", "foo-1:", "lib-1:")

	untouched := newLayout(recordstest.NewMemory())
	want := [][][]store.Path{group(t, untouched, app), group(t, untouched, both)}

	state := recordstest.NewMemory()
	l := newLayout(state)
	first, decided, err := l.group(t.Context(), hostile, 94, false)
	if err != nil || !decided {
		t.Fatalf("it is not said that the image decides alone: %v", err)
	}
	for name, later := range map[string]*layout{"the same replica": l, "another replica": newLayout(state)} {
		if got := [][][]store.Path{group(t, later, app), group(t, later, both)}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s groups as %v, want %v", name, got, want)
		}
	}
	got := [][][]store.Path{group(t, newLayout(recordstest.NewMemory()), hostile)}
	if !reflect.DeepEqual(got[0], first) {
		t.Errorf("alone, it is %v, and added, it is %v", first, got[0])
	}
	added := newLayout(recordstest.NewMemory())
	group(t, added, hostile)
	if got := [][][]store.Path{group(t, added, app), group(t, added, both)}; reflect.DeepEqual(got, want) {
		t.Error("added, it would have changed nothing: the test shows nothing")
	}
	// Of what is decided for all, it takes that, and then decides nothing alone.
	if _, decided, err := l.group(t.Context(), both, 94, false); err != nil || decided {
		t.Errorf("what is known is decided again: %v", err)
	}
}

func TestLayoutOfReplicasAtOnce(t *testing.T) {
	state := recordstest.NewMemory()
	a, b := newLayout(state), newLayout(state)
	group(t, a, closure("app-1: lib-1", "lib-1:"))
	group(t, b, closure("app-1: lib-1", "bar-1: lib-1", "foo-1: lib-1", "lib-1:"))
	fresh := newLayout(state)
	infos := closure("app-3: lib-3", "new-1:", "lib-3:")
	if got, want := group(t, fresh, infos), group(t, a, infos); !reflect.DeepEqual(got, want) {
		t.Errorf("a replica that starts now says %v, the first one %v", got, want)
	}
}

func TestLayoutSurvivesDamage(t *testing.T) {
	state := recordstest.NewMemory()
	group(t, newLayout(state), closure("app-1: lib-1", "lib-1:"))
	for key := range state.Records {
		state.Records[key] = []byte("[{")
	}
	if got := group(t, newLayout(state), closure("app-1: lib-1", "lib-1:")); len(got) != 1 {
		t.Errorf("layers are %v", got)
	}
}
