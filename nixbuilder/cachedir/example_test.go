package cachedir_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
)

// A files part removes single files, by the time of their last change.
type files string

func (f files) Dir() string { return string(f) }

func (f files) Items() (items []cachedir.Item) {
	entries, _ := os.ReadDir(f.Dir())
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			remove := func() bool { return os.Remove(filepath.Join(f.Dir(), entry.Name())) == nil }
			items = append(items, cachedir.Item{Used: info.ModTime(), Remove: remove})
		}
	}
	return items
}

func ExampleBound() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for i, name := range []string{"oldest", "older", "newest"} {
		file, used := filepath.Join(dir, name), time.Now().Add(time.Duration(i-3)*time.Hour)
		err := errors.Join(os.WriteFile(file, make([]byte, 1<<20), 0o600), os.Chtimes(file, used, used))
		if err != nil {
			log.Fatal(err)
		}
	}

	bound := cachedir.NewBound(3 << 19) // 1.5 MiB
	bound.Add(files(dir))
	fmt.Println("within the bound:", bound.Shrink())
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		fmt.Println("left:", entry.Name())
	}
	// Output:
	// within the bound: true
	// left: newest
}

func ExampleWithin() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	download := func(ctx context.Context) error { // without end
		for i := 0; ctx.Err() == nil; i++ {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 64<<10), 0o600); err != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
		return ctx.Err()
	}
	err = cachedir.Within(context.Background(), 1<<20, []string{dir}, download)
	fmt.Println(err)
	// Output: it takes too much room
}
