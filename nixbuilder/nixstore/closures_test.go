package nixstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// A registry of paths, as Nix has it: what a path refers to is registered before it, and not
// deleted before it.
type registered struct {
	paths map[store.Path]registeredPath
	now   time.Time
	asked int // for closures
}

type registeredPath struct {
	store.PathInfo
	hash  string
	since time.Time
}

func (r *registered) Registrations(_ context.Context, paths []store.Path) (found []daemon.Registration, err error) {
	for _, p := range paths {
		known, ok := r.paths[p]
		if !ok {
			return nil, &daemon.Error{Message: string(p) + " is not valid"}
		}
		found = append(found, daemon.Registration{Path: p, NarHash: known.hash, Since: known.since})
	}
	return found, nil
}

func (r *registered) Closure(_ context.Context, roots []store.Path) (closure []store.PathInfo, err error) {
	r.asked++
	return r.closure(roots), nil
}

func (r *registered) closure(roots []store.Path) []store.PathInfo {
	infos := make(map[store.Path]store.PathInfo)
	for p, known := range r.paths {
		infos[p] = known.PathInfo
	}
	closure := store.Reachable(infos, roots)
	slices.SortFunc(closure, func(a, b store.PathInfo) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return closure
}

func (r *registered) add(p store.Path, references ...store.Path) {
	slices.Sort(references)
	r.paths[p] = registeredPath{
		store.PathInfo{
			Path:       p,
			NarSize:    int64(len(references)),
			References: references,
		}, fmt.Sprint("sha256:", references), r.now,
	}
}

func (r *registered) isReferred(p store.Path) bool {
	for other, known := range r.paths {
		if other != p && slices.Contains(known.References, p) {
			return true
		}
	}
	return false
}

// A closure is what the store has, whatever was deleted and built anew with other references, and
// known ones are not asked for again.
func TestClosures(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 0))
		nix := &registered{paths: make(map[store.Path]registeredPath), now: time.Now().Add(-24 * time.Hour)}
		known := newClosures()
		check := func(roots ...store.Path) {
			t.Helper()
			got, err := known.of(t.Context(), nix, roots)
			if want := nix.closure(roots); err != nil || !slices.EqualFunc(got, want, equalInfos) {
				t.Fatalf("seed %d: the closure of %v is %v, want %v, %v", seed, roots, got, want, err)
			}
		}
		names := make([]store.Path, 12)
		for i := range names {
			names[i] = store.Path(fmt.Sprintf("/nix/store/%032d-p%d", i, i))
		}
		for range 300 {
			nix.now = nix.now.Add(time.Second)
			i := random.IntN(len(names))
			if _, ok := nix.paths[names[i]]; !ok {
				references := []store.Path{names[i]}
				for _, p := range names[:i] {
					if _, ok := nix.paths[p]; ok && random.IntN(3) == 0 {
						references = append(references, p)
					}
				}
				nix.add(names[i], references...)
			} else if !nix.isReferred(names[i]) && random.IntN(2) == 0 {
				delete(nix.paths, names[i])
			}
			var roots []store.Path
			for p := range nix.paths {
				if random.IntN(3) == 0 {
					roots = append(roots, p)
				}
			}
			check(roots...)
			asked := nix.asked
			check(roots...)
			if nix.asked > asked {
				t.Fatalf("seed %d: the closure of %v was asked for twice", seed, roots)
			}
		}
	}
}

// What was registered just now may be registered again within the same second.
func TestClosuresJustRegistered(t *testing.T) {
	nix := &registered{paths: make(map[store.Path]registeredPath), now: time.Now()}
	lib, other, app := store.Path("/nix/store/0-lib"), store.Path("/nix/store/0-other"), store.Path("/nix/store/0-app")
	known := newClosures()
	nix.add(other)
	nix.add(lib)
	nix.add(app, lib)
	if _, err := known.of(t.Context(), nix, []store.Path{app}); err != nil {
		t.Fatal(err)
	}
	nix.add(lib, other) // app's content is the same
	got, err := known.of(t.Context(), nix, []store.Path{app})
	if want := nix.closure([]store.Path{app}); err != nil || !slices.EqualFunc(got, want, equalInfos) {
		t.Errorf("the closure is %v, want %v, %v", got, want, err)
	}
	if _, err := known.of(t.Context(), nix, []store.Path{"/nix/store/0-absent"}); err == nil {
		t.Error("an absent path has a closure")
	}
}

// A closure counts with all its texts, whoever shares them: few large ones take no more memory than
// many small ones.
func TestClosuresInMemoryAreBounded(t *testing.T) {
	nix := &registered{paths: make(map[store.Path]registeredPath), now: time.Now().Add(-24 * time.Hour)}
	known := newClosures()
	known.roots = weighted.New[store.Path, rootClosure](100_000)
	known.paths = weighted.New[store.Path, store.PathInfo](20_000)
	var below []store.Path
	for i := range 100 {
		p := store.Path(fmt.Sprintf("/nix/store/%032d-p%d", i, i))
		nix.add(p, below...)
		below = append(below, p)
		if _, err := known.of(t.Context(), nix, []store.Path{p}); err != nil {
			t.Fatal(err)
		}
	}
	last := below[len(below)-1]
	if roots, paths := known.roots.Bytes(), known.paths.Bytes(); roots > 100_000 || roots < 50_000 || paths > 20_000 ||
		paths < 10_000 ||
		known.roots.Contains(last) {
		t.Errorf(
			"closures take %d bytes of 100,000, paths %d of 20,000; one of 300,000 is kept: %t", roots, paths,
			known.roots.Contains(last),
		)
	}
}

func equalInfos(a, b store.PathInfo) bool {
	return a.Path == b.Path && a.NarSize == b.NarSize && slices.Equal(a.References, b.References)
}
