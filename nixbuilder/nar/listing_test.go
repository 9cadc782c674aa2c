package nar

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nar/nartest"
)

func TestListing(t *testing.T) {
	tree := t.TempDir()
	for name, content := range map[string]string{
		"bin/a": "1", "etc/kept": "other text", "nix-support/kept": "kept text", "share/doc/b": "2",
	} {
		if err := errors.Join(
			os.MkdirAll(filepath.Join(tree, filepath.Dir(name)), 0o755),
			os.WriteFile(filepath.Join(tree, name), []byte(content), 0o644),
		); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../bin", filepath.Join(tree, "share", "link")); err != nil {
		t.Fatal(err)
	}
	whole := bytes.NewReader(nartest.Dump(t, tree))
	lister := Lister{Keep: func(name string) bool { return path.Base(name) == "kept" }, Max: 1000}
	small := Lister{Max: 20}
	var entries []Entry
	err := Read(whole, func(e Entry) error {
		entries = append(entries, e)
		return errors.Join(lister.Add(&e), small.Add(&e))
	})
	if err != nil {
		t.Fatal(err)
	}
	checkListing(t, lister, entries)
	written, _ := lister.Bytes()
	listing, err := ParseListing(written)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/kept": "other text", "nix-support/kept": "kept text"} {
		if kept := listing.Find(name); kept == nil || kept.Content == nil || *kept.Content != want {
			t.Errorf("%s is listed as %+v, want its content", name, kept)
		}
	}
	if other := listing.Find("share/doc/b"); other == nil || other.Content != nil {
		t.Errorf("another file is listed as %+v, want no content", other)
	}
	for _, name := range []string{"bin/b", "bin/a/c", "share/link/a", "bin/", "/bin"} {
		if found := listing.Find(name); found != nil {
			t.Errorf("%q is listed as %+v", name, found)
		}
	}
	if link := listing.Find("share/link"); link == nil || link.Type != fs.ModeSymlink || link.Target != "../bin" {
		t.Errorf("the link is listed as %+v", link)
	}
	if _, ok := small.Bytes(); ok {
		t.Error("a listing that is too large counts as whole")
	}
}

// What is kept is bounded. A file that is not kept is listed and read as any other.
func TestListingKeepsLittle(t *testing.T) {
	lister := Lister{Keep: func(string) bool { return true }, Max: 8 << 20}
	add := func(e Entry) {
		t.Helper()
		if err := lister.Add(&e); err != nil {
			t.Fatal(err)
		}
		if e.Content == nil {
			return
		}
		if n, err := io.Copy(io.Discard, e.Content); err != nil || n != e.Size {
			t.Errorf("%s: read %d bytes (%v), want %d", e.Path, n, err, e.Size)
		}
	}
	add(Entry{Mode: fs.ModeDir | 0o555})
	sizes := map[string]int64{"a": maxKept + 1, "b": maxKept, "c": maxKept, "d": maxKept, "e": maxKept, "f": 1}
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		content := strings.NewReader(strings.Repeat("x", int(sizes[name])))
		add(Entry{Path: name, Mode: 0o444, Size: sizes[name], Content: content})
	}
	written, ok := lister.Bytes()
	if !ok {
		t.Fatal("the listing is too large")
	}
	listing, err := ParseListing(written)
	if err != nil {
		t.Fatal(err)
	}
	var kept string
	for _, file := range listing.Children {
		if file.Content != nil {
			kept += file.Name
		}
	}
	if want := "bcde"; kept != want {
		t.Errorf("kept is the content of %s, want %s", kept, want)
	}
}

func FuzzParseListing(f *testing.F) {
	f.Add([]byte("d\x00\x00\x00f\x01\x01a\x00"))
	f.Add([]byte("l\x00\x00\x02ab"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if listing, err := ParseListing(b); err == nil {
			listing.Find("a/b")
		}
	})
}
