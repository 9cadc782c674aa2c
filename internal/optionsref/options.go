package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/nixery-registry/nixery-registry/middleware"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// An option is a key of the stanza. Sections have options below them.
type option struct {
	key     string // from the stanza on: build.timeout; NAME stands for any key of a map
	about   string // sentences
	kind    kind
	initial any // as YAML has it; nil for none
	below   []option
}

// A kind is what a value may be.
type kind int

const (
	text kind = iota
	number
	boolean
	duration
	size
	texts
	compression
	anything
	section
	sections // by names that the operator chooses
)

// describe returns the options of the stanza, in the order of the code, whose files are in a
// directory.
func describe(dir string) ([]option, error) {
	comments, err := commentsOf(dir)
	if err != nil {
		return nil, err
	}
	// The least that there can be, which leaves the rest as it is by default.
	initial, err := middleware.ParseOptions(map[string]any{"packages": map[string]any{"path": "/"}})
	if err != nil {
		return nil, err
	}
	initial.Packages.Path, initial.CacheDir = "", "/var/cache/nixery-registry" // of this machine
	return comments.fields("", reflect.ValueOf(initial))
}

// comments are those of the fields of structs, by TYPE.FIELD.
type comments map[string]string

func commentsOf(dir string) (comments, error) {
	files, err := filepath.Glob(filepath.Join(dir, "options*.go"))
	if err != nil {
		return nil, err
	}
	found := make(comments)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if declared, ok := node.(*ast.TypeSpec); ok {
				found.add(declared)
			}
			return true
		})
	}
	return found, nil
}

func (c comments) add(declared *ast.TypeSpec) {
	fields, ok := declared.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, field := range fields.Fields.List {
		for _, name := range field.Names {
			about := strings.Join(strings.Fields(field.Doc.Text()), " ")
			c[declared.Name.Name+"."+name.Name] = strings.TrimPrefix(about, name.Name+" ")
		}
	}
}

// fields returns the options of a section. Every one must have a comment.
func (c comments) fields(prefix string, value reflect.Value) (options []option, err error) {
	for field, initial := range value.Fields() {
		o := option{
			key:   prefix + field.Tag.Get("mapstructure"),
			about: c[value.Type().Name()+"."+field.Name],
		}
		if o.about == "" {
			return nil, fmt.Errorf("%s.%s has no comment, of which its documentation is made",
				value.Type().Name(), field.Name)
		}
		switch {
		case field.Type.Kind() == reflect.Struct:
			o.kind = section
			o.below, err = c.fields(o.key+".", initial)
		case field.Type.Kind() == reflect.Map && field.Type.Elem().Kind() == reflect.Struct:
			o.kind = sections
			o.below, err = c.fields(o.key+".NAME.", reflect.Zero(field.Type.Elem()))
		default:
			o.kind, o.initial, err = plain(initial)
		}
		if err != nil {
			return nil, err
		}
		options = append(options, o)
	}
	return options, nil
}

// plain returns the kind of a value, and the value as YAML has it.
func plain(value reflect.Value) (kind, any, error) {
	switch initial := value.Interface().(type) {
	case string:
		return text, orNone(initial, ""), nil
	case int:
		return number, initial, nil
	case bool:
		return boolean, initial, nil
	case []string:
		return texts, initial, nil
	case time.Duration:
		return duration, short(initial), nil
	case middleware.Bytes:
		if initial > 0 && initial%units.GiB == 0 {
			return size, fmt.Sprintf("%dGiB", initial/units.GiB), nil
		}
		return size, units.HumanSizeWithPrecision(float64(initial), 10), nil
	case compress.Compression:
		return compression, initial.String(), nil
	case map[string]any:
		return anything, nil, nil
	}
	return 0, nil, fmt.Errorf("a %s has no place in the reference", value.Type())
}

func orNone(value, none string) any {
	if value == none {
		return nil
	}
	return value
}

// short writes a time as people do: 1h, not 1h0m0s.
func short(d time.Duration) string {
	written := d.String()
	for _, end := range []string{"m0s", "h0m"} {
		if cut, ok := strings.CutSuffix(written, end); ok {
			written = cut + end[:1]
		}
	}
	return written
}
