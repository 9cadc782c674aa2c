package source

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A fake is a source that is at a revision and has had others.
type fake struct {
	now   *string
	had   []string
	down  *error
	fresh bool // Current knows
	holds map[string]int
}

func (fake) Offers(context.Context) []string { return nil }
func (fake) Doubt()                          {}

func (f fake) Pin(_ context.Context, tag string) (Pinned, error) {
	if *f.down != nil {
		stale := Pinned{Name: "fake", Revision: *f.now, Path: "/" + *f.now, Stale: *f.down}
		return stale, nil //nolint:nilerr // it says why
	}
	switch {
	case tag == Latest:
		return Pinned{Name: "fake", Revision: *f.now, Path: "/" + *f.now, Origin: "fake"}, nil
	case slices.Contains(f.had, tag):
		return Pinned{Name: "fake", Revision: tag, Path: "/" + tag}, nil
	}
	return Pinned{}, ErrUnknownTag
}

func (f fake) Lease(_ context.Context, pinned Pinned) (func(), error) {
	if *f.down != nil {
		return nil, *f.down
	}
	f.holds[pinned.Revision+" "+pinned.Path]++
	return func() { f.holds[pinned.Revision+" "+pinned.Path]-- }, nil
}

func (f fake) Current(tag string) (string, bool) {
	if commitTag.MatchString(tag) {
		return tag, true
	}
	return *f.now, f.fresh
}

func TestVariants(t *testing.T) {
	one, two, three := strings.Repeat("1", 40), strings.Repeat("2", 40), strings.Repeat("3", 40)
	setNow, pathNow := one, two
	var down, pathDown error
	records := make(map[string]Variant)
	recall := func(_ context.Context, id string) (Variant, bool, error) {
		variant, ok := records[id]
		return variant, ok, nil
	}
	set := fake{now: &setNow, had: []string{one, two}, down: &down, fresh: true}
	nixPath := map[string]Source{
		"nixpkgs": fake{now: &pathNow, had: []string{two, three}, down: &pathDown, fresh: true},
		"also":    fake{now: &pathNow, had: []string{two, three}, down: &pathDown, fresh: true},
	}

	plain := NewVariants(set, nil, nil, recall)
	if got, err := plain.Pin(t.Context(), Latest); err != nil || got.Revision != one || got.Variant != nil ||
		got.NixPath != nil {
		t.Errorf("without anything else, Pin = %+v, %v", got, err)
	}
	if revision, ok := plain.Current(Latest); !ok || revision != one {
		t.Errorf("without anything else, Current = %s, %v", revision, ok)
	}
	settings := NewVariants(set, Variant{"submodules=true"}, nil, recall)
	with, err := settings.Pin(t.Context(), Latest)
	if err != nil || with.Revision != one+"-"+(Variant{"submodules=true"}).ID() {
		t.Errorf("with a setting, Pin = %+v, %v", with, err)
	}
	if again, err := settings.Pin(t.Context(), with.Revision); err != nil || again.Revision != with.Revision {
		t.Errorf("with a setting, Pin of its revision = %+v, %v", again, err)
	}
	if _, err := plain.Pin(t.Context(), with.Revision); !errors.Is(err, ErrUnknownTag) {
		t.Errorf("without the setting, its revision is %v", err)
	}

	v := NewVariants(set, Variant{"submodules=true"}, nixPath, recall)
	first, err := v.Pin(t.Context(), Latest)
	if err != nil || first.Commit != "" || !strings.HasPrefix(first.Revision, one+"-") ||
		!variantTag.MatchString(first.Revision) ||
		first.Origin == "" ||
		!slices.Equal(first.Variant, Variant{"nixpath.also=" + two, "nixpath.nixpkgs=" + two, "submodules=true"}) ||
		!maps.Equal(first.NixPath, map[string]string{"nixpkgs": "/" + two, "also": "/" + two}) {
		t.Fatalf("Pin = %+v, %v", first, err)
	}
	if _, err := v.Pin(t.Context(), first.Revision); !errors.Is(err, ErrUnknownTag) {
		t.Errorf("a revision that nothing was built of is %v", err)
	}
	records[first.Variant.ID()] = first.Variant
	pathNow = three
	second, err := v.Pin(t.Context(), Latest)
	if err != nil || second.Revision == first.Revision || second.NixPath["nixpkgs"] != "/"+three {
		t.Errorf("after <nixpkgs> has moved, Pin = %+v, %v", second, err)
	}
	if revision, ok := v.Current(Latest); !ok || revision != second.Revision {
		t.Errorf("Current = %s, %v, want %s", revision, ok, second.Revision)
	}
	if commit, err := v.Pin(t.Context(), one); err != nil || commit.Revision != second.Revision {
		t.Errorf("a commit is with the <nixpkgs> of now: %+v, %v", commit, err)
	}
	if revision, ok := v.Current(one); !ok || revision != second.Revision {
		t.Errorf("Current of a commit = %s, %v, want %s", revision, ok, second.Revision)
	}
	if old, err := v.Pin(t.Context(), first.Revision); err != nil || old.Revision != first.Revision ||
		!maps.Equal(old.NixPath, first.NixPath) ||
		old.Origin != "" {
		t.Errorf("a revision has the <nixpkgs> that it had: %+v, %v", old, err)
	}
	if revision, ok := v.Current(first.Revision); !ok || revision != first.Revision {
		t.Errorf("Current of a revision = %s, %v", revision, ok)
	}
	if _, err := v.Pin(t.Context(), three+"-"+first.Variant.ID()); !errors.Is(err, ErrUnknownTag) {
		t.Errorf("a revision that the set does not have is %v", err)
	}
	if _, err := NewVariants(set, nil, nixPath, recall).Pin(t.Context(), first.Revision); !errors.Is(
		err, ErrUnknownTag,
	) {
		t.Errorf("after the setting was changed, the old revision is %v", err)
	}
	records[first.Variant.ID()] = first.Variant[:1]
	if _, err := v.Pin(t.Context(), first.Revision); !errors.Is(err, ErrUnknownTag) {
		t.Errorf("with a record of something else, the revision is %v", err)
	}

	pathDown = errors.New("down")
	if stale, err := v.Pin(t.Context(), Latest); err != nil || stale.Stale == nil ||
		!strings.Contains(stale.Stale.Error(), "packages.nixpath.also: down") {
		t.Errorf("with <nixpkgs> down, Pin = %+v, %v", stale, err)
	}
	pathDown = nil
	nixPath["nixpkgs"] = fake{now: new(string), had: nil, down: &down, fresh: false}
	if _, ok := v.Current(Latest); ok {
		t.Error("Current knows what one of its sources does not know")
	}
	nixPath["nixpkgs"] = unknown{}
	if _, err := v.Pin(t.Context(), Latest); err == nil || errors.Is(err, ErrUnknownTag) ||
		!strings.Contains(err.Error(), "packages.nixpath.nixpkgs") {
		t.Errorf("with no such <nixpkgs>, Pin of the set's latest is %v", err)
	}
}

// Sources are not asked for the tags of signatures, so it doesn't matter whether they could answer.
func TestAttachedTags(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	v := NewVariants(asked{t}, nil, nil, nil)
	for _, tag := range []string{
		"sha256-" + hash, "sha256-" + hash + ".sig", "sha256-" + hash + ".att", "sha256-" + hash + ".sbom",
		"sha512-" + hash, "sha512-" + hash + hash + ".sig",
	} {
		if _, err := v.Pin(t.Context(), tag); !errors.Is(err, ErrUnknownTag) {
			t.Errorf("Pin(%q) = %v, want ErrUnknownTag", tag, err)
		}
	}
	now, well := "x", error(nil)
	for _, tag := range []string{"sha256-", "sha256-x", "sha256", "sha256-" + hash[1:]} {
		set := fake{now: &now, had: []string{tag}, down: &well}
		if _, err := NewVariants(set, nil, nil, nil).Pin(t.Context(), tag); err != nil {
			t.Errorf("a branch %q is %v", tag, err)
		}
	}
}

// An asked source fails the test when it is asked.
type asked struct{ t *testing.T }

func (a asked) Pin(_ context.Context, tag string) (Pinned, error) {
	a.t.Errorf("asked for %s", tag)
	return Pinned{}, errors.New("down")
}
func (a asked) Lease(context.Context, Pinned) (func(), error) { return nil, errors.New("down") }
func (a asked) Offers(context.Context) []string               { return nil }
func (a asked) Doubt()                                        {}
func (a asked) Current(string) (string, bool)                 { return "", false }

// An unknown source has nothing.
type unknown struct{ fake }

func (unknown) Pin(context.Context, string) (Pinned, error) { return Pinned{}, ErrUnknownTag }
func (unknown) Current(string) (string, bool)               { return "", false }

// Lease keeps the files of the set and of all that it looks up, or none of them.
func TestVariantsLease(t *testing.T) {
	one, two := strings.Repeat("1", 40), strings.Repeat("2", 40)
	var well, down error
	holds := make(map[string]int)
	v := NewVariants(
		fake{now: &one, down: &well, holds: holds}, Variant{"setting=x"},
		map[string]Source{"nixpkgs": fake{now: &two, down: &down, holds: holds}}, nil,
	)
	pinned, err := v.Pin(t.Context(), Latest)
	if err != nil {
		t.Fatal(err)
	}
	release, err := v.Lease(t.Context(), pinned)
	if want := map[string]int{one + " /" + one: 1, two + " /" + two: 1}; err != nil || !maps.Equal(holds, want) {
		t.Fatalf("held %v, %v, want %v", holds, err, want)
	}
	release()
	down = errors.New("gone")
	if _, err := v.Lease(t.Context(), pinned); !errors.Is(err, down) {
		t.Errorf("one of them is gone, and the error is %v", err)
	}
	for what, times := range holds {
		if times != 0 {
			t.Errorf("%s is held %d times in the end", what, times)
		}
	}
}
