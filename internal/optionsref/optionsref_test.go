package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// The reference and the schema are those of the code: `make options` writes them.
func TestFilesAreCurrent(t *testing.T) {
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code says (%v): run `make options`", name, err)
		}
	}
}

// Every option is in the example, be it in a comment.
func TestExampleHasAllOptions(t *testing.T) {
	example, err := os.ReadFile(filepath.Join(root, "config.yml.example"))
	if err != nil {
		t.Fatal(err)
	}
	options, err := describe(filepath.Join(root, "middleware"))
	if err != nil {
		t.Fatal(err)
	}
	var check func(options []option)
	check = func(options []option) {
		for _, o := range options {
			key := o.key[strings.LastIndexByte(o.key, '.')+1:]
			if !regexp.MustCompile(`(?m)(^|[ {#])` + key + `:`).Match(example) {
				t.Errorf("config.yml.example lacks %s", o.key)
			}
			check(o.below)
		}
	}
	check(options)
}

// The schema is JSON, and knows a key of every depth.
func TestSchema(t *testing.T) {
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties map[string]struct {
			Properties map[string]struct {
				Type       any
				Default    any
				Properties map[string]any
			}
		}
	}
	if err := json.Unmarshal(files[schemaFile], &schema); err != nil {
		t.Fatal(err)
	}
	if got := schema.Properties["build"].Properties["timeout"]; got.Type != "string" || got.Default != "1m" {
		t.Errorf("build.timeout is %+v", got)
	}
	if got := schema.Properties["packages"].Properties["git"].Properties["url"]; got == nil {
		t.Error("there is no packages.git.url")
	}
}
