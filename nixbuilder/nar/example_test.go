package nar_test

import (
	"bytes"
	"fmt"
	"io"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar/nartest"
)

func ExampleRead() {
	var archive bytes.Buffer
	nartest.Words(&archive, "nix-archive-1", "(", "type", "directory")
	nartest.Words(&archive, "entry", "(", "name", "hello", "node",
		"(", "type", "regular", "executable", "", "contents", "#!/bin/sh\n", ")", ")")
	nartest.Words(&archive, "entry", "(", "name", "hi", "node",
		"(", "type", "symlink", "target", "hello", ")", ")")
	nartest.Words(&archive, ")")

	err := nar.Read(&archive, func(e nar.Entry) error {
		fmt.Printf("%v %q", e.Mode, e.Path)
		if e.Content != nil {
			content, err := io.ReadAll(e.Content)
			if err != nil {
				return err
			}
			fmt.Printf(" = %q", content)
		}
		if e.Target != "" {
			fmt.Printf(" -> %q", e.Target)
		}
		fmt.Println()
		return nil
	})
	fmt.Println(err)
	// Output:
	// dr-xr-xr-x ""
	// -r-xr-xr-x "hello" = "#!/bin/sh\n"
	// Lrwxrwxrwx "hi" -> "hello"
	// <nil>
}
