package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

const beginning = `# Configuration reference

The options of the stanza ` + "`nix`" + `, below ` + "`middleware.repository`" + ` with ` + "`name: nix`" + `.
All else of the file is the [CNCF Distribution
registry's](https://distribution.github.io/distribution/about/configuration/).
[config.yml.example](../../config.yml.example) is a file with all of them, and
` + "`registry serve --check`" + ` says what is wrong with one. Unknown keys are faults.

A time is written as 90s, 15m or 1h, and a size as 500MB, 10GB or 8GiB.

Editors complete and check the stanza with [nix.schema.json](nix.schema.json). This page and the
schema are made from the code by ` + "`make options`" + `.
`

var kinds = map[kind]string{
	text: "text", number: "number", boolean: "true or false", duration: "time", size: "size", texts: "list of texts",
	compression: "one of gzip, zstd, none, estargz, zstd:chunked", anything: "a value for Nix",
}

// referenceOf writes the reference for people.
func referenceOf(options []option) []byte {
	var page bytes.Buffer
	page.WriteString(beginning)
	var plain, sectioned []option
	for _, o := range options {
		if o.below == nil {
			plain = append(plain, o)
		} else {
			sectioned = append(sectioned, o)
		}
	}
	writeTable(&page, "The stanza itself", "", plain)
	for _, o := range sectioned {
		writeSection(&page, o)
	}
	return page.Bytes()
}

func writeSection(page *bytes.Buffer, o option) {
	var plain []option
	for _, below := range o.below {
		if below.below == nil {
			plain = append(plain, below)
		}
	}
	writeTable(page, "`"+o.key+"`", o.about, plain)
	for _, below := range o.below {
		if below.below != nil {
			writeSection(page, below)
		}
	}
}

func writeTable(page *bytes.Buffer, title, about string, options []option) {
	fmt.Fprintf(page, "\n## %s\n\n", title)
	if about != "" {
		fmt.Fprintf(page, "%s\n\n", wrapped(sentence(about)))
	}
	page.WriteString("| key | is | default | about |\n|---|---|---|---|\n")
	for _, o := range options {
		fmt.Fprintf(page, "| `%s` | %s | %s | %s |\n", o.key, kinds[o.kind], initialText(o.initial), cell(o.about))
	}
}

// sentence begins a comment, which goes on after the name of its field, as a sentence.
func sentence(about string) string {
	for _, verb := range []string{"is ", "are ", "says ", "say "} {
		if rest, ok := strings.CutPrefix(about, verb); ok {
			about = rest
			if verb[0] == 's' {
				about = "What says " + rest
			}
			break
		}
	}
	return strings.ToUpper(about[:1]) + about[1:]
}

func cell(about string) string { return strings.ReplaceAll(sentence(about), "|", `\|`) }

func initialText(initial any) string {
	if initial == nil {
		return ""
	}
	if list, ok := initial.([]string); ok {
		return "`[" + strings.Join(list, ", ") + "]`"
	}
	return fmt.Sprintf("`%v`", initial)
}

// wrapped breaks a paragraph at 100 columns.
func wrapped(paragraph string) string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(paragraph) {
		if line != "" && len(line)+1+len(word) > 100 {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(append(lines, line), "\n")
}

// schemaOf writes the JSON Schema of the stanza's options.
func schemaOf(options []option) ([]byte, error) {
	schema := object(options)
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "Options of the nix stanza"
	schema["required"] = []string{"packages"}
	content, err := json.MarshalIndent(schema, "", "  ")
	return append(content, '\n'), err
}

func object(options []option) map[string]any {
	properties := make(map[string]any)
	for _, o := range options {
		one := valueSchema(o)
		one["description"] = sentence(o.about)
		if o.initial != nil {
			one["default"] = o.initial
		}
		properties[o.key[strings.LastIndexByte(o.key, '.')+1:]] = one
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

func valueSchema(o option) map[string]any {
	switch o.kind {
	case number:
		return map[string]any{"type": "integer"}
	case boolean:
		return map[string]any{"type": "boolean"}
	case duration:
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`}
	case size:
		return map[string]any{
			"type": []string{"integer", "string"}, "pattern": `^[0-9]+(\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?$`,
		}
	case texts:
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	case compression:
		return map[string]any{"enum": []string{"gzip", "zstd", "none", "estargz", "zstd:chunked"}}
	case anything:
		return map[string]any{"type": "object"}
	case section:
		return object(o.below)
	case sections:
		return map[string]any{"type": "object", "additionalProperties": object(o.below)}
	}
	return map[string]any{"type": "string"}
}
