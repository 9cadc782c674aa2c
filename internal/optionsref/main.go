// Command optionsref writes what is known of the options of the nix stanza, from the code that reads
// them: a reference for people, and a JSON Schema for editors. `make options` runs it.
//
// Usage: optionsref DIR, where DIR is the checkout.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: optionsref DIR")
		os.Exit(2)
	}
	files, err := generate(os.Args[1])
	for name, content := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(os.Args[1], name), content, 0o644)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "optionsref:", err)
		os.Exit(1)
	}
}

// The files that are written, from the checkout on.
const (
	referenceFile = "docs/operate/configuration.md"
	schemaFile    = "docs/operate/nix.schema.json"
)

// generate returns the files and their content.
func generate(root string) (map[string][]byte, error) {
	options, err := describe(filepath.Join(root, "middleware"))
	if err != nil {
		return nil, err
	}
	schema, err := schemaOf(options)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{referenceFile: referenceOf(options), schemaFile: schema}, nil
}
