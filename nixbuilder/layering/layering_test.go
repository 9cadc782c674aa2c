package layering

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// path makes a valid store path of the name, the same on every run.
func path(name string) store.Path {
	sum := sha256.Sum256([]byte(name))
	hash := base32.NewEncoding("0123456789abcdfghijklmnpqrsvwxyz").EncodeToString(sum[:20])
	return store.Path(store.Dir + "/" + hash + "-" + name)
}

// closureOf reads lines of a name, a size and references: git-2.44.0 30000000 zlib-1.3 glibc-2.39.
func closureOf(t *testing.T, lines string) []store.PathInfo {
	t.Helper()
	var closure []store.PathInfo
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		info := store.PathInfo{Path: path(words[0])}
		if _, err := fmt.Sscan(words[1], &info.NarSize); err != nil {
			t.Fatal(err)
		}
		for _, word := range words[2:] {
			info.References = append(info.References, path(word))
		}
		closure = append(closure, info)
	}
	return closure
}

// memory is the map of heads as a caller keeps it: a key's head and, after a space, its patron.
type memory map[Key]string

func (m memory) head(key Key) (Head, bool) {
	entry, ok := m[key]
	head, patron, _ := strings.Cut(entry, " ")
	return Head{key, Key(head), Key(patron)}, ok
}

func (m memory) add(heads []Head) {
	for _, h := range heads {
		if _, ok := m[h.Key]; !ok {
			m[h.Key] = string(h.Head + " " + h.Patron)
		}
	}
}

func TestAssign(t *testing.T) {
	for _, test := range []struct {
		name, closure string
		known         memory
		want          []Head
	}{
		{
			name: "empty",
		},
		{
			name:    "a chain follows its start until too few depend on that",
			closure: "a-1 1 b-1\n b-1 1 c-1\n c-1 1",
			want:    []Head{{"a", "a", "a"}, {"b", "a", ""}, {"c", "c", "a"}},
		},
		{
			name:    "of two heads the one that more depend on",
			closure: "a-1 1 x-1\n b-1 1 c-1 d-1\n c-1 1 m-1\n d-1 1 m-1\n m-1 1 x-1\n x-1 1",
			want: []Head{
				{"a", "a", "a"}, {"b", "b", "b"}, {"c", "b", ""}, {"d", "b", ""}, {"m", "m", "b"},
				{"x", "m", ""},
			},
		},
		{
			name:    "of equal heads the smaller name",
			closure: "b-1 1 x-1\n a-1 1 x-1\n c-1 1 y-1\n x-1 1\n y-1 1",
			known:   memory{"x": "x"},
			want:    []Head{{"a", "a", "a"}, {"b", "b", "b"}, {"c", "c", "c"}, {"y", "c", ""}},
		},
		{
			name:    "paths that refer to themselves",
			closure: "a-1 1 a-1 b-1\n b-1 1 b-1",
			want:    []Head{{"a", "a", "a"}, {"b", "a", ""}},
		},
		{
			name:    "a known path neither counts nor leads, but passes on what depends on it",
			closure: "a-1 1 k-1\n b-1 1 k-1\n k-1 1 x-1 y-1\n x-1 1 y-1\n y-1 1",
			known:   memory{"k": "k"},
			want:    []Head{{"a", "a", "a"}, {"b", "b", "b"}, {"x", "x", "x"}, {"y", "x", ""}},
		},
		{
			name:    "other versions of what is known",
			closure: "a-2 1 b-2\n b-2 1",
			known:   memory{"a": "a", "b": "a"},
		},
		{
			name:    "the dependent decides for a key that is there twice",
			closure: "a-1 1 x-1\n x-1 1 x-2\n x-2 1",
			want:    []Head{{"a", "a", "a"}, {"x", "a", ""}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Assign(closureOf(t, test.closure), test.known.head)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("Assign() = %v, want %v", got, test.want)
			}
		})
	}
}

func TestGroup(t *testing.T) {
	for _, test := range []struct {
		name, closure string
		heads         memory
		budget        int
		want          []string // the names in each layer
	}{
		{
			name: "empty",
		},
		{
			name:    "small paths go by head, large ones alone, the largest layer first",
			closure: "a-1 10 b-1 c-1 d-1\n b-1 20\n c-1 2097152\n d-1 2097151",
			heads:   memory{"a": "a", "b": "a", "c": "a", "d": "d"},
			want:    []string{"c-1", "d-1", "a-1 b-1"},
		},
		{
			name:    "a head that is not in the closure still joins",
			closure: "a-1 10\n b-1 20",
			heads:   memory{"a": "gone", "b": "gone"},
			want:    []string{"a-1 b-1"},
		},
		{
			name:    "an unknown key is its own head in all its versions",
			closure: "a-1 10\n a-2 5\n b-1 20",
			want:    []string{"b-1", "a-1 a-2"},
		},
		{
			name:    "over the budget the smallest share a layer",
			closure: "a-1 10\n b-1 20\n c-1 35\n d-1 40",
			budget:  3,
			want:    []string{"d-1", "c-1", "a-1 b-1"},
		},
		{
			name:    "the shared layer takes its place by size",
			closure: "a-1 20\n b-1 25\n c-1 35\n d-1 40",
			budget:  3,
			want:    []string{"a-1 b-1", "d-1", "c-1"},
		},
		{
			name:    "one layer",
			closure: "a-1 10\n b-1 20000000\n c-1 30",
			budget:  1,
			want:    []string{"a-1 b-1 c-1"},
		},
		{
			name: "over the budget small groups go with their patron's, if that is enough for a layer, else with others",
			closure: "a-1 90000\n b-1 80000\n p-1 1000\n p1-1 2000\n p2-1 3000\n q-1 400\n q1-1 900\n" +
				"r-1 100\n none-1 10",
			heads:  memory{"p": "p p", "p1": "p1 p", "p2": "p2 p", "q": "q gone", "q1": "q1 gone", "r": "r r"},
			budget: 5,
			want:   []string{"a-1", "b-1", "p-1 p1-1 p2-1", "q-1 q1-1", "none-1 r-1"},
		},
		{
			name: "large paths go with their patron's group",
			closure: "a-1 90000000\n b-1 80000000\n c-1 70000000\n" +
				"d-1 9000000\n e-1 7000000\n f-1 7000000\n h-1 1",
			heads:  memory{"a": "a b", "d": "d d", "e": "d", "f": "d", "h": "h"},
			budget: 5,
			want:   []string{"a-1", "b-1", "c-1", "d-1 e-1 f-1", "h-1"},
		},
		{
			name:    "of equal groups no more go together than need to",
			closure: "a-1 3000000\n b-1 3000000\n c-1 3000000\n d-1 3000000\n e-1 3000000\n f-1 3000000",
			budget:  5,
			want:    []string{"a-1 e-1", "d-1", "f-1", "b-1", "c-1"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			layers, err := Group(closureOf(t, test.closure), test.heads.head, Options{Budget: test.budget})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, layer := range layers {
				var names []string
				for _, path := range layer {
					names = append(names, path.Name())
				}
				slices.Sort(names) // the paths' own order is that of hashes
				got = append(got, strings.Join(names, " "))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("Group() = %q, want %q", got, test.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, test := range []struct {
		name, closure string
		budget        int
		assign, group string // what the error says; empty: none
	}{
		{
			name:    "reference that leaves the closure",
			closure: "a-1 1 b-1",
			assign:  "-b-1, which is not in it",
			group:   "-b-1, which is not in it",
		},
		{
			name:    "path given twice",
			closure: "a-1 1\n a-1 1",
			assign:  "-a-1 is in it twice",
			group:   "-a-1 is in it twice",
		},
		{
			name:    "negative size",
			closure: "a-1 -1",
			assign:  "-a-1 has a size of -1",
			group:   "-a-1 has a size of -1",
		},
		{
			name:    "size that no path has",
			closure: "a-1 9000000000000000000",
			assign:  "-a-1 has a size of 9000000000000000000",
			group:   "-a-1 has a size of 9000000000000000000",
		},
		{
			name:    "cycle",
			closure: "a-1 1 b-1\n b-1 1 c-1\n c-1 1 b-1",
			assign:  "-b-1 is in or below a cycle of references",
		},
		{
			name:    "negative budget",
			closure: "a-1 1",
			budget:  -1,
			group:   "a budget of -1 layers",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			closure := closureOf(t, test.closure)
			_, err := Assign(closure, memory{}.head)
			check(t, "Assign", err, test.assign)
			_, err = Group(closure, memory{}.head, Options{Budget: test.budget})
			check(t, "Group", err, test.group)
		})
	}
}

func check(t *testing.T, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s() failed: %v", name, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s() = %v, want an error with %q", name, err, want)
	}
}

// A whole package set has more paths than are counted at a time. Their weights are those of a
// simpler count.
func TestWeights(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	closure := make([]store.PathInfo, 2*weighed+100)
	for i := range closure {
		closure[i].Path = path(fmt.Sprintf("package%04d-1.0", i))
		for to := i + 1 + random.IntN(20); to < len(closure); to += 1 + random.IntN(len(closure)) {
			closure[i].References = append(closure[i].References, path(fmt.Sprintf("package%04d-1.0", to)))
		}
	}
	paths, err := members(closure)
	if err != nil {
		t.Fatal(err)
	}
	order, err := dependentsFirst(paths)
	if err != nil {
		t.Fatal(err)
	}
	bit := make([]int, len(paths))
	unknown := 0
	for _, i := range order {
		if bit[i] = -1; i%7 != 0 { // every seventh is known
			bit[i] = unknown
			unknown++
		}
	}
	want := make([]int, len(paths))
	for i := range paths {
		seen := map[int]bool{i: true}
		for queue := []int{i}; len(queue) > 0; queue = queue[1:] {
			for _, r := range paths[queue[0]].references {
				if !seen[r] {
					seen[r] = true
					queue = append(queue, r)
				}
			}
		}
		for reached := range seen {
			if bit[i] >= 0 && bit[reached] >= 0 {
				want[reached]++
			}
		}
	}
	if got := weights(paths, order, bit, unknown); !slices.Equal(got, want) {
		t.Errorf("weights() = %v\nwant %v", got, want)
	}
}

// randomClosure makes a closure like a real image's: few paths are large, and most refer to some of
// those after them.
func randomClosure(random *rand.Rand, paths int) []store.PathInfo {
	closure := make([]store.PathInfo, paths)
	for i := range closure {
		closure[i].Path = path(fmt.Sprintf("package%03d-%d.%d", i, random.IntN(3), random.IntN(10)))
		closure[i].NarSize = 1 << (10 + random.IntN(16))
	}
	for i := range closure {
		for range random.IntN(min(10, paths-i)) {
			to := closure[i+random.IntN(paths-i)].Path
			if !slices.Contains(closure[i].References, to) {
				closure[i].References = append(closure[i].References, to)
			}
		}
		slices.Sort(closure[i].References)
	}
	return closure
}

func TestProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	kept := memory{} // over all images, as in a registry
	for n := range 50 {
		closure := randomClosure(random, 1+random.IntN(400))
		budget := 1 + random.IntN(120)
		before := maps.Clone(kept)
		added, err := Assign(closure, kept.head)
		if err != nil {
			t.Fatal(err)
		}
		kept.add(added)
		layers, err := Group(closure, kept.head, Options{Budget: budget})
		if err != nil {
			t.Fatal(err)
		}

		for _, h := range added {
			if _, ok := before[h.Key]; ok {
				t.Fatalf("image %d: %s has a head already and got another", n, h.Key)
			}
		}
		for _, info := range closure {
			if _, ok := kept[KeyOf(info.Path)]; !ok {
				t.Fatalf("image %d: %s has no head", n, info.Path)
			}
		}
		if again, err := Assign(closure, kept.head); err != nil || len(again) > 0 {
			t.Fatalf("image %d, assigned again: %v, %v", n, again, err)
		}
		if len(layers) > budget {
			t.Fatalf("image %d: %d layers, the budget is %d", n, len(layers), budget)
		}
		count := make(map[store.Path]int)
		for _, layer := range layers {
			if !slices.IsSorted(layer) {
				t.Fatalf("image %d: a layer is not sorted: %v", n, layer)
			}
			for _, path := range layer {
				count[path]++
			}
		}
		for _, info := range closure {
			if count[info.Path] != 1 {
				t.Fatalf("image %d: %s is in %d layers", n, info.Path, count[info.Path])
			}
		}
		if len(count) != len(closure) {
			t.Fatalf("image %d: %d paths in layers, %d in the closure", n, len(count), len(closure))
		}

		given := slices.Clone(closure)
		random.Shuffle(len(given), func(i, j int) { given[i], given[j] = given[j], given[i] })
		shuffled := slices.Clone(given)
		if again, err := Assign(shuffled, before.head); err != nil || !slices.Equal(again, added) {
			t.Fatalf("image %d, in another order: heads %v, %v, want %v", n, again, err, added)
		}
		if again, err := Group(shuffled, kept.head, Options{Budget: budget}); err != nil ||
			!reflect.DeepEqual(again, layers) {
			t.Fatalf("image %d, in another order: layers %v, %v, want %v", n, again, err, layers)
		}
		if !reflect.DeepEqual(shuffled, given) {
			t.Fatalf("image %d: the closure was changed", n)
		}
	}
}

// An update keeps every layer that holds no changed path.
func TestUpdateKeepsLayers(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	closure := randomClosure(random, 60)
	kept := memory{}
	layersOf := func() map[string]bool {
		added, err := Assign(closure, kept.head)
		if err != nil {
			t.Fatal(err)
		}
		kept.add(added)
		layers, err := Group(closure, kept.head, Options{})
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]bool)
		for _, layer := range layers {
			found[fmt.Sprint(layer)] = true
		}
		return found
	}
	before := layersOf()
	old := closure[0].Path // nothing refers to it but itself
	closure[0].Path = path(string(KeyOf(old)) + "-9.9")
	if i := slices.Index(closure[0].References, old); i >= 0 {
		closure[0].References[i] = closure[0].Path
	}
	after := layersOf()
	for layer := range before {
		if !after[layer] && !strings.Contains(layer, string(old)) {
			t.Errorf("the layer %s is gone, though nothing in it changed", layer)
		}
	}
}

func TestDefaultBudget(t *testing.T) {
	closure := randomClosure(rand.New(rand.NewPCG(5, 6)), 400)
	want, err := Group(closure, memory{}.head, Options{Budget: DefaultBudget})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Group(closure, memory{}.head, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || len(got) > DefaultBudget || len(got) < DefaultBudget/2 {
		t.Errorf("%d layers without a budget, %d with one of %d", len(got), len(want), DefaultBudget)
	}
}

// BenchmarkImage groups an image of 300 paths, none of which or all of which are known.
func BenchmarkImage(b *testing.B) {
	closure := randomClosure(rand.New(rand.NewPCG(7, 8)), 300)
	all, err := Assign(closure, memory{}.head)
	if err != nil {
		b.Fatal(err)
	}
	known := memory{}
	known.add(all)
	for _, bench := range []struct {
		name string
		kept memory
	}{{"new", memory{}}, {"known", known}} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Assign(closure, bench.kept.head); err != nil {
					b.Fatal(err)
				}
				if _, err := Group(closure, known.head, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// However many equal paths there are, and whatever needs them, an image has most of the layers that
// it may have.
func TestEqualPaths(t *testing.T) {
	for _, test := range []struct {
		name  string
		size  int
		alone bool   // no package needs them
		users string // which need one of them each, beside the package
	}{
		{"small, of nothing", 1000, true, ""},
		{"large, of nothing", 30_000_000, true, ""},
		{"large, of one package", 3_000_000, false, ""},
		{"small, of one package and two others each", 1000, false, "x y"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, n := range []int{94, 95, 96, 120, 300, 1000} {
				lines, needs := "", ""
				for i := range n {
					part := fmt.Sprintf("part%c%c%c-1", 'a'+i/26/26, 'a'+i/26%26, 'a'+i%26)
					lines += fmt.Sprintf("%s %d\n", part, test.size)
					needs += " " + part
					for user := range strings.FieldsSeq(test.users) {
						lines += fmt.Sprintf("%s%s 1 %s\n", user, part, part)
						needs += " " + user + part
					}
				}
				if !test.alone {
					lines += "package-1 1" + needs
				}
				closure, kept := closureOf(t, lines), memory{}
				added, err := Assign(closure, kept.head)
				if err != nil {
					t.Fatal(err)
				}
				kept.add(added)
				layers, err := Group(closure, kept.head, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if len(layers) < DefaultBudget*2/3 {
					t.Errorf("%d paths have %d layers", n, len(layers))
				}
			}
		})
	}
}

// One package more leaves most of the layers as they are, also those of what is over the budget.
func TestOneMoreOverTheBudget(t *testing.T) {
	var lines strings.Builder
	for i := range 300 {
		fmt.Fprintf(&lines, "package%c%c-1.%d %d\n", 'a'+i/26, 'a'+i%26, i, 1000+i)
	}
	for _, more := range []string{"small-1 1", "middling-1 1100", "large-1 1999", "own-1 9000000"} {
		changed := changedBy(t, memory{}, closureOf(t, lines.String()), closureOf(t, more))
		if len(changed) == 0 || len(changed) > 2 {
			t.Errorf("with %s, %d layers are others, want one or two", more, len(changed))
		}
	}
}

// The layers of a package whose paths were all met with it first do not depend on the other
// packages of the image, if those paths are enough for a layer.
func TestOneMoreWithAPatron(t *testing.T) {
	kept := memory{}
	app := func(name string) []store.PathInfo {
		lines, needs := "", ""
		for i := range 15 {
			// Two that need a third, which has no head then.
			part := fmt.Sprintf("%s-part%c", name, 'a'+i)
			lines += fmt.Sprintf(
				"%s-1 %d\n %s-tool-1 1 %s-1\n %s-user-1 1 %s-1\n", part, 1000+i, part, part, part, part,
			)
			needs += fmt.Sprintf(" %s-tool-1 %s-user-1 %s-1", part, part, part)
		}
		closure := closureOf(t, lines+name+"-1 500"+needs)
		added, err := Assign(closure, kept.head)
		if err != nil {
			t.Fatal(err)
		}
		kept.add(added)
		return closure
	}
	var all []store.PathInfo
	for _, name := range []string{"mango", "papaya", "quince", "lychee", "medlar", "guava", "durian", "feijoa",
		"loquat", "salak"} {
		all = append(all, app(name)...)
	}
	more := app("rambutan")
	for _, layer := range changedBy(t, kept, all, more) {
		for _, path := range layer {
			if !strings.HasPrefix(path.Name(), "rambutan-") {
				t.Errorf("with another app, a layer of %d paths is another that has %s", len(layer), path)
				break
			}
		}
	}
}

// changedBy returns the layers of an image that are not in a smaller one, which is over the budget
// already.
func changedBy(t *testing.T, kept memory, closure, more []store.PathInfo) [][]store.Path {
	t.Helper()
	before, err := Group(closure, kept.head, Options{})
	if err != nil {
		t.Fatal(err)
	}
	after, err := Group(slices.Concat(closure, more), kept.head, Options{})
	if err != nil {
		t.Fatal(err)
	}
	paths := make(map[Key]bool)
	for _, info := range closure {
		entry, _ := kept.head(KeyOf(info.Path))
		paths[cmp.Or(entry.Head, KeyOf(info.Path))] = true
	}
	if len(paths) <= DefaultBudget {
		t.Fatalf("%d groups are within the budget: the test shows nothing", len(paths))
	}
	return slices.DeleteFunc(after, func(layer []store.Path) bool {
		return slices.ContainsFunc(before, func(known []store.Path) bool { return slices.Equal(known, layer) })
	})
}
