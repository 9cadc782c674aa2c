package daemon

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A collection deletes what no root holds, and no more than it is told. What a connection has a root
// for stays, with all that it refers to.
func TestCollect(t *testing.T) {
	h := newHost(t)
	c, collecting := h.open(nil), h.open(nil)
	ctx := t.Context()
	size := func() int64 {
		t.Helper()
		bytes, err := collecting.Size(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	empty := size()
	h.mustBuild(c, "program", "split")
	program, lib, split := h.output("program"), h.output("lib"), h.derivation("split")
	var want int64
	for p := range h.valid(t) {
		want += h.narSize(c, p)
	}
	if got := size(); got != want || got <= empty {
		t.Errorf("the size of the store is %d, want %d; empty it was %d", got, want, empty)
	}

	if err := collecting.MayCollect(ctx); err != nil {
		t.Errorf("it may not collect: %v", err)
	}
	if got := size(); got != want {
		t.Errorf("after the question alone, the size is %d, want %d", got, want)
	}
	rooted := h.open(nil)
	if err := rooted.AddTempRoots(ctx, []store.Path{program}); err != nil {
		t.Fatal(err)
	}
	c.Close() // its roots are gone

	before := len(h.valid(t))
	if freed, err := collecting.Collect(ctx, 1); err != nil || freed == 0 {
		t.Errorf("one byte was to be freed, %d were, %v", freed, err)
	}
	if after := len(h.valid(t)); after >= before || after == 2 {
		t.Errorf("of %d paths, %d are there", before, after)
	}
	if _, err := collecting.Collect(ctx, 1<<40); err != nil {
		t.Fatal(err)
	}
	left := []store.Path{lib, program}
	slices.Sort(left)
	if got, err := rooted.ValidPaths(ctx, []store.Path{program, lib, split}); err != nil || !slices.Equal(got, left) {
		t.Errorf("%v is left, %v, want %v", got, err, left)
	}
	rooted.Close()
	if _, err := collecting.Collect(ctx, 1<<40); err != nil {
		t.Fatal(err)
	}
	if got := size(); got != 0 {
		t.Errorf("in the end, the size is %d", got)
	}
}

// valid are the paths that are valid in the host's store.
func (h *host) valid(t *testing.T) map[store.Path]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(h.root, store.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var there []store.Path
	for _, file := range files {
		if p, err := store.ParsePath(filepath.Join(store.Dir, filepath.Base(file))); err == nil {
			there = append(there, p)
		}
	}
	valid, err := h.open(nil).ValidPaths(t.Context(), there)
	if err != nil {
		t.Fatal(err)
	}
	paths := make(map[store.Path]bool)
	for _, p := range valid {
		paths[p] = true
	}
	return paths
}

func (h *host) narSize(c *Conn, p store.Path) int64 {
	h.t.Helper()
	infos, err := c.Infos(h.t.Context(), []store.Path{p})
	if err != nil || len(infos) != 1 {
		h.t.Fatal(infos, err)
	}
	return infos[0].NarSize
}
