package layer

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// An entry that is added changes the chunk that it is in, and those beside it at most.
func TestSectionsAreCutByName(t *testing.T) {
	chunks := func(extra int) map[string]bool {
		var out bytes.Buffer
		_, err := WriteSections(t.Context(), &out, compress.New(compress.Gzip, 1), nil, func(t *Tar) error {
			for i := range 10_000 {
				name := fmt.Sprintf("share/man/man3/page%05d", i)
				if err := t.Symlink(name, "/nix/store/"+name); err != nil {
					return err
				}
				if i == extra {
					if err := t.Symlink(name+"a", "/nix/store/"+name); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return members(t, out.Bytes())
	}
	before, after := chunks(-1), chunks(5000)
	if len(before) < 20 {
		t.Fatalf("an archive of 10,000 entries has %d chunks", len(before))
	}
	added := 0
	for chunk := range after {
		if !before[chunk] {
			added++
		}
	}
	if added < 1 || added > 3 {
		t.Errorf("with one entry more, %d of %d chunks are others, want one to three", added, len(after))
	}
}

// members returns the members of a gzip file.
func members(t *testing.T, blob []byte) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	rest := bytes.NewReader(blob)
	var member *gzip.Reader
	for rest.Len() > 0 {
		var err error
		if member == nil {
			member, err = gzip.NewReader(rest)
		} else {
			err = member.Reset(rest)
		}
		if err != nil {
			t.Fatal(err)
		}
		member.Multistream(false)
		content, err := io.ReadAll(member)
		if err != nil {
			t.Fatal(err)
		}
		all[string(content)] = true
	}
	return all
}

// BenchmarkSections writes a root layer of 85 packages and 9,800 links: one that was written
// before, and one with a package more.
func BenchmarkSections(b *testing.B) {
	const packages, linksEach = 85, 115
	sections := func(first int) []Section {
		all := make([]Section, 0, packages)
		for n := first; n < first+packages; n++ {
			all = append(all, Section{Key: fmt.Sprint(n), Fill: func(t *Tar) error {
				for i := range linksEach {
					name := fmt.Sprintf("share/package%03d/page%05d.gz", n, i)
					target := "/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-package-1.0/" + name
					if err := t.Symlink(name, target); err != nil {
						return err
					}
				}
				return nil
			}})
		}
		return all
	}
	nothing := func(*Tar) error { return nil }
	for _, test := range []struct {
		name string
		next func(n int) []Section
	}{
		{"known", func(int) []Section { return sections(0) }},
		{"one more", func(n int) []Section {
			more := sections(n + packages)[:1]
			return append(sections(0), more...)
		}},
		{"unknown", func(n int) []Section { return sections((n + 2) * packages) }},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			c := compress.New(compress.Gzip, 2)
			if _, err := WriteSections(b.Context(), io.Discard, c, sections(0), nothing); err != nil {
				b.Fatal(err)
			}
			for n := 0; b.Loop(); n++ {
				if _, err := WriteSections(b.Context(), io.Discard, c, test.next(n), nothing); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
