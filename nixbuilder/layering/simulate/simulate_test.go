package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestReadArchive(t *testing.T) {
	for _, test := range []struct {
		name, index string
		want        map[string]string // dependencies by package
		wantErr     string
	}{
		{
			name: "versions, architectures, alternatives, virtual packages",
			index: "Package: a\nDepends: b:any (>= 1), gone | c [amd64], d | mail,\nPre-Depends: c\n\n" +
				"Package: b\nDescription: continued\n Depends: c\n\nPackage: c\n\nPackage: d-impl\nProvides: x (= 1), mail\n",
			want: map[string]string{"a": "b c d-impl", "b": "", "c": "", "d-impl": ""},
		},
		{
			name:  "no dependency is not one on a package that provides nothing",
			index: "Package: a\nProvides:\n\nPackage: b\nDepends:\n",
			want:  map[string]string{"a": "", "b": ""},
		},
		{
			name:  "a cycle loses the edge that closes it",
			index: "Package: b\nDepends: c\n\nPackage: a\nDepends: b\n\nPackage: c\nDepends: a, c\n",
			want:  map[string]string{"a": "b", "b": "c", "c": ""},
		},
		{
			name:  "of a package that is there twice the first",
			index: "Package: a\n\nPackage: a\nDepends: b\n\nPackage: b\n",
			want:  map[string]string{"a": "", "b": ""},
		},
		{
			name:    "a size that is not one",
			index:   "Package: a\nInstalled-Size: much\n",
			wantErr: "reading the size of a",
		},
		{
			name:    "nothing",
			wantErr: "it is empty",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := readArchive(strings.NewReader(test.index))
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("readArchive() = %v, want an error with %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]string)
			for _, p := range a.packages {
				got[p.name] = a.names(p.dependencies)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("dependencies are %v, want %v", got, test.want)
			}
		})
	}
}

// names are the sorted names of packages.
func (a *archive) names(packages []int) string {
	var names []string
	for _, i := range packages {
		names = append(names, a.packages[i].name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// newImage is the image of the named packages.
func newImage(t *testing.T, a *archive, names ...string) image {
	t.Helper()
	roots, err := a.indexes(names)
	if err != nil {
		t.Fatal(err)
	}
	return image{roots, reach(roots, a.dependenciesOf), make([]int, len(a.packages))}
}

// The example of Nixery's own documentation: of the packages that A-D need, E is popular, G is big
// and F is neither.
func TestNixery(t *testing.T) {
	var index strings.Builder
	index.WriteString("Package: a\nDepends: e\n\nPackage: b\nDepends: e\n\nPackage: c\nDepends: d, e\n\n" +
		"Package: d\nDepends: f, g\n\nPackage: e\n\nPackage: f\n\nPackage: g\nInstalled-Size: 200000\n\n")
	for i := range popular {
		fmt.Fprintf(&index, "Package: z%d\nDepends: e\n\n", i)
	}
	a, err := readArchive(strings.NewReader(index.String()))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := newNixery(a)(newImage(t, a, "a", "b", "c", "d"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, layer := range layers {
		got = append(got, a.names(layer))
	}
	slices.Sort(got)
	if want := []string{"a", "b", "c", "d f", "e", "g"}; !slices.Equal(got, want) {
		t.Errorf("layers are %q, want %q", got, want)
	}
}

// Every algorithm puts each path into one layer and stays within the budget, on an image that has
// more paths than that.
func TestAlgorithms(t *testing.T) {
	a, err := readArchive(strings.NewReader(testIndex()))
	if err != nil {
		t.Fatal(err)
	}
	img := newImage(t, a, "p000", "p001", "p002")
	if len(img.paths) <= budget {
		t.Fatalf("the image has %d paths only", len(img.paths))
	}
	for _, algorithm := range algorithms() {
		t.Run(algorithm.name, func(t *testing.T) {
			layers, err := algorithm.new(a)(img)
			if err != nil {
				t.Fatal(err)
			}
			if len(layers) > budget {
				t.Errorf("%d layers", len(layers))
			}
			if got := slices.Sorted(slices.Values(slices.Concat(layers...))); !slices.Equal(got, img.paths) {
				t.Errorf("the layers hold %v, want %v", got, img.paths)
			}
		})
	}
}

// testIndex is an index of 300 packages, most of which need others after them, and the shell.
func testIndex() string {
	var index strings.Builder
	for i := range 300 {
		fmt.Fprintf(&index, "Package: p%03d\nVersion: 1.%d-1\nInstalled-Size: %d\nDepends: p%03d, p%03d\n\n",
			i, i, (i*i*7919)%9000, i*2+1, i+3)
	}
	for _, name := range shell() {
		fmt.Fprintf(&index, "Package: %s\nVersion: 1:2~3\nInstalled-Size: 100\nDepends: p299\n\n", name)
	}
	return index.String()
}

func TestRun(t *testing.T) {
	few := amounts{combined: 6, pulled: 2, revisions: 1, growing: 1}
	roots := filepath.Join(t.TempDir(), "roots")
	if err := os.WriteFile(roots, []byte("p000\np100\np200\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	table := func(seed uint64) string {
		var out strings.Builder
		if err := run(strings.NewReader(testIndex()), &out, roots, few, seed); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	first := table(1)
	if lines := strings.Count(first, "\n"); lines != 2+len(algorithms()) {
		t.Errorf("the table has %d lines:\n%s", lines, first)
	}
	if again := table(1); again != first {
		t.Errorf("the same seed printed\n%s\nand then\n%s", first, again)
	}
	if other := table(2); other == first {
		t.Errorf("another seed printed the same:\n%s", first)
	}
}

func TestRunRefuses(t *testing.T) {
	few := amounts{combined: 1, pulled: 1, revisions: 1}
	roots := filepath.Join(t.TempDir(), "roots")
	if err := os.WriteFile(roots, []byte("gone\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, index, roots, want string
	}{
		{"root that is not in the index", testIndex(), roots, "finding gone"},
		{"no shell in the index", "Package: a\n", "", "finding bash"},
		{"no file of roots", testIndex(), roots + ".gone", "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := run(strings.NewReader(test.index), new(strings.Builder), test.roots, few, 1)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("run() = %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestLedger(t *testing.T) {
	a := &archive{packages: []pkg{{size: 10}, {size: 20}, {size: 30}}}
	old, updated := image{built: []int{0, 0, 0}}, image{built: []int{0, 0, 1}}
	l := newLedger(a)
	l.add(old, [][]int{{1, 0}, {2}})     // 60 bytes
	l.add(old, [][]int{{0, 1}, {2}})     // the same
	l.add(updated, [][]int{{0, 1}, {2}}) // 30 more
	l.add(old, [][]int{{0, 1, 2}})       // 60 of no new path
	if got, want := l.ratio(), 150.0/90; got != want {
		t.Errorf("ratio() = %v, want %v", got, want)
	}
}
