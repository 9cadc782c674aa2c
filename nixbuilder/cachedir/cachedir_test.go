package cachedir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const block = 64 << 10

func write(t *testing.T, name string, blocks int) {
	t.Helper()
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, make([]byte, blocks*block), 0o644),
	); err != nil {
		t.Fatal(err)
	}
}

// A part has files as items, used at so many minutes past some time.
type part struct {
	dir  string
	used map[string]int
	held []string
}

func (p part) Dir() string { return p.dir }

func (p part) Items() (items []Item) {
	for name, minutes := range p.used {
		items = append(items, Item{Used: time.Unix(int64(minutes)*60, 0), Remove: func() bool {
			return !slices.Contains(p.held, name) && os.Remove(filepath.Join(p.dir, name)) == nil
		}})
	}
	return items
}

func TestShrink(t *testing.T) {
	for _, test := range []struct {
		name string
		most int // blocks
		held []string
		want []string
		fits bool
	}{
		{"enough", 100, nil, []string{"one/a", "one/b", "two/c", "two/d"}, true},
		{"the oldest of both", 25, nil, []string{"one/b", "two/d"}, true},
		{"not what is in use", 25, []string{"a"}, []string{"one/a", "two/d"}, true},
		{"all", 0, nil, nil, false},
		{"all is in use", 1, []string{"a", "b", "c", "d"}, []string{"one/a", "one/b", "two/c", "two/d"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"one/a", "one/b", "two/c", "two/d"} {
				write(t, filepath.Join(dir, name), 10)
			}
			b := NewBound(int64(test.most)*block + 1)
			b.Add(
				part{dir + "/one", map[string]int{"a": 1, "b": 3}, test.held},
				part{dir + "/two", map[string]int{"c": 2, "d": 4}, test.held},
			)
			fits := b.Shrink()
			left, err := filepath.Glob(dir + "/*/*")
			for i := range left {
				left[i], _ = filepath.Rel(dir, left[i])
			}
			if fits != test.fits || err != nil || !slices.Equal(left, test.want) {
				t.Errorf("%q is left, %v, and fits: %v, want %q and %v", left, err, fits, test.want, test.fits)
			}
		})
	}
}

func TestGrown(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/old", 10)
	write(t, dir+"/new", 1)
	b := NewBound(5 * block)
	b.Add(part{dir, map[string]int{"old": 1, "new": 2}, nil})
	for range 100 {
		b.Grown()
	}
	for {
		if _, err := os.Stat(dir + "/old"); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := os.Stat(dir + "/new"); err != nil {
		t.Error(err)
	}
	NewBound(0).Grown() // without a bound, nothing happens
}

func TestWithin(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/before", 100)
	fill := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			for i := 0; ; i++ {
				if err := ctx.Err(); err != nil {
					return fmt.Errorf("filling: %w", context.Cause(ctx))
				}
				if i < 60 {
					write(t, fmt.Sprintf("%s/%s/%d", dir, name, i), 1)
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	if err := Within(t.Context(), 50*block, []string{dir + "/a", dir + "/none"}, fill("a")); !errors.Is(
		err, ErrTooMuch,
	) {
		t.Errorf("what takes too much is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Within(ctx, 1, []string{dir + "/a"}, fill("b")); !errors.Is(err, context.Canceled) ||
		errors.Is(err, ErrTooMuch) {
		t.Errorf("what has ended for another cause is %v", err)
	}
	why := errors.New("why")
	if err := Within(t.Context(), block, []string{dir + "/a"}, func(context.Context) error { return why }); !errors.Is(
		err, why,
	) {
		t.Errorf("an error becomes %v", err)
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/sub/file", 10)
	one := Usage(dir)
	if err := os.Link(dir+"/sub/file", dir+"/again"); err != nil {
		t.Fatal(err)
	}
	if two := Usage(dir); one < 10*block || one > 11*block || two != one {
		t.Errorf("a file of %d bytes takes %d, by two names %d", 10*block, one, two)
	}
	if none := Usage(dir + "/nonexistent"); none != 0 {
		t.Errorf("nothing takes %d", none)
	}
}
