package nixbuilder

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// path makes a store path out of a name.
func path(name string) store.Path {
	hash := strings.Repeat("0", 32-len(fmt.Sprintf("%x", name))%32) + fmt.Sprintf("%x", name)
	hash = strings.NewReplacer("e", "g").Replace(hash)
	p, err := store.ParsePath(store.Dir + "/" + hash[len(hash)-32:] + "-" + name)
	if err != nil {
		panic(err)
	}
	return p
}

// closure makes one of small paths: "app: lib" is a path app that refers to lib.
func closure(lines ...string) []store.PathInfo {
	var infos []store.PathInfo
	for _, line := range lines {
		name, references, _ := strings.Cut(line, ":")
		info := store.PathInfo{Path: path(name), NarSize: 1000}
		for _, r := range strings.Fields(references) {
			info.References = append(info.References, path(r))
		}
		infos = append(infos, info)
	}
	return infos
}

func group(t *testing.T, l *layout, infos []store.PathInfo) [][]store.Path {
	t.Helper()
	groups, err := l.group(t.Context(), infos, 94)
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

func TestLayoutIsKept(t *testing.T) {
	// Alone, lib goes with app. After an image in which two others need it too, it goes alone.
	alone := closure("app-1: lib-1", "lib-1:")
	shared := closure("app-1: lib-1", "bar-1: lib-1", "foo-1: lib-1", "lib-1:")
	together := [][]store.Path{{path("app-1"), path("lib-1")}}

	state := newMemory()
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
	if got := group(t, newLayout(newMemory()), shared); len(got) != 4 {
		t.Errorf("without what was kept, the layers are %v: the test shows nothing", got)
	}
}

func TestLayoutOfReplicasAtOnce(t *testing.T) {
	state := newMemory()
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
	state := newMemory()
	group(t, newLayout(state), closure("app-1: lib-1", "lib-1:"))
	for key := range state.records {
		state.records[key] = []byte("[{")
	}
	if got := group(t, newLayout(state), closure("app-1: lib-1", "lib-1:")); len(got) != 1 {
		t.Errorf("layers are %v", got)
	}
}
