package source_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// An edit makes another revision. The copy of the revision before stays as it is while it is held.
func ExamplePath() {
	work, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(work)
	set := filepath.Join(work, "default.nix")
	edit := func(text string) {
		if err := os.WriteFile(set, []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	edit("{ hello = 1; }\n")
	path, err := source.NewPath(source.NewWatches(), set, filepath.Join(work, "copies"), 0)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	pinned, err := path.Pin(ctx, source.Latest)
	if err != nil {
		log.Fatal(err)
	}
	release, err := path.Lease(ctx, pinned)
	if err != nil {
		log.Fatal(err)
	}
	defer release()

	edit("{ hello = 2; }\n")
	next, err := path.Pin(ctx, source.Latest)
	if err != nil {
		log.Fatal(err)
	}
	text, err := os.ReadFile(pinned.Path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(pinned.Name, pinned.Revision == next.Revision)
	fmt.Print(string(text))
	// Output:
	// path:default.nix false
	// { hello = 1; }
}
