package eval

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// packageReport is what Nix answers for a package, with other values for some fields.
func packageReport(t *testing.T, fields map[string]any) *report {
	t.Helper()
	all := map[string]any{
		"name": "a", "path": []string{"a"}, "pname": "a", "version": "1", "system": "x86_64-linux",
		"drvPath":          "/nix/store/0000000000000000000000000000000a-a.drv",
		"outPaths":         map[string]string{"out": "/nix/store/0000000000000000000000000000000a-a"},
		"outputsToInstall": []string{"out"},
	}
	for name, value := range fields {
		all[name] = value
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func settings(name string, value any) map[string]any {
	return map[string]any{"image": map[string]any{"settings": map[string]any{name: value}}}
}

// A failure names the package's faulty field and its limit, and nothing of the field is stored.
func TestPackagesThatSayTooMuch(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	outputs := func(n int) map[string]string {
		paths := make(map[string]string)
		for i := range n {
			paths[fmt.Sprint("out", i)] = "/nix/store/0000000000000000000000000000000a-a"
		}
		return paths
	}
	for _, test := range []struct {
		name   string
		fields map[string]any
		want   string // empty: it is a package
	}{
		{"nothing special", nil, ""},
		{"a version as long as may be", map[string]any{"version": long(256)}, ""},
		{"a longer one", map[string]any{"version": long(257)}, "a: its version has 257 bytes, 256 are allowed"},
		{"a name", map[string]any{"pname": long(5_000_000)}, "a: its pname has 5000000 bytes, 256 are allowed"},
		{"a program", map[string]any{"mainProgram": long(300)}, "a: its meta.mainProgram has 300 bytes"},
		{"a system", map[string]any{"system": long(300)}, "a: its system has 300 bytes"},
		{
			"outputs", map[string]any{"outPaths": outputs(65), "outputsToInstall": []string{"out0"}},
			"a: its outputs has 65 entries, 64 are allowed",
		},
		{"as many as may be", map[string]any{"outPaths": outputs(64), "outputsToInstall": []string{"out0"}}, ""},
		{
			"the same output again and again",
			map[string]any{"outputsToInstall": strings.Split(strings.Repeat("out ", 65), " ")},
			"its meta.outputsToInstall has 66 entries",
		},
		{
			"the name of an output",
			map[string]any{"outPaths": map[string]string{"out": "/nix/store/0000000000000000000000000000000a-a", long(300): "/" + strings.Repeat("0", 52)}},
			"the name of an output has 300 bytes",
		},
		{"settings as large as may be", settings("env", map[string]string{"a": long(65_000)}), ""},
		{
			"larger settings", settings("env", map[string]string{"a": long(66_000)}),
			"a: passthru.image has 66109 bytes as JSON, 65536 are allowed",
		},
		{
			"settings that are larger as JSON", settings("cmd", []string{strings.Repeat("\x01", 11_000)}),
			"passthru.image has",
		},
		{"labels as long as may be", settings("labels", map[string]string{"a": long(4095), "b": "\n"}), ""},
		{
			"a longer label", settings("labels", map[string]string{"ab": long(4095)}),
			`a: passthru.image.labels has 4097 bytes in "ab", with the name, 4096 are allowed`,
		},
		{"a label with a long name", settings("labels", map[string]string{long(4096): "a"}), "labels has 4097 bytes in"},
		{"the last port", settings("exposedports", []string{"65535", "1/udp"}), ""},
		{
			"one more", settings("exposedports", []string{"65536"}),
			`passthru.image.exposedports has "65536", which is not a port from 1 to 65535`,
		},
		{"five digits", settings("exposedports", []string{"99999"}), `has "99999"`},
		{"no port", settings("exposedports", []string{"0/tcp"}), `has "0/tcp"`},
		{"another spelling", settings("exposedports", []string{"0080"}), `has "0080"`},
		{
			"a variable of two lines", settings("env", map[string]string{"A": "a\nPATH=/evil"}),
			"passthru.image.env has a line break or another control character in A",
		},
		{"a colour in a variable", settings("env", map[string]string{"A": "\x1b[31m"}), "control character in A"},
		{"a name of two lines", settings("env", map[string]string{"A\nB": "x"}), `env has "A\nB", which is no name`},
		{"a user of two lines", settings("user", "me\nroot"), "passthru.image.user has a control character"},
		{"a command of two lines", settings("cmd", []string{"sh", "-c", "a\nb"}), ""},
		{"a directory", settings("workingdir", "/srv/a..b"), ""},
		{"the root directory", settings("workingdir", "/"), ""},
		{
			"a relative directory", settings("workingdir", "srv"),
			`passthru.image.workingdir is "srv", which is not an absolute path`,
		},
		{"a directory above", settings("workingdir", "../.."), `workingdir is "../.."`},
		{"a directory above, within", settings("workingdir", "/srv/../etc"), `workingdir is "/srv/../etc"`},
		{"a long fault", settings("workingdir", long(60_000)), `which is not`},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := packageReport(t, test.fields).result()
			switch failure := result.Failure; {
			case test.want == "" && failure != nil:
				t.Errorf("it is refused: %s", failure.Message)
			case test.want != "" && (failure == nil || !strings.Contains(failure.Message, test.want)):
				t.Errorf("result = %+v, want the failure %q", failure, test.want)
			case failure != nil && (!result.Cacheable() || len(failure.Message) > maxMessage):
				t.Errorf("the failure of %d bytes is remembered: %t", len(failure.Message), result.Cacheable())
			}
		})
	}
}

// Texts that only people read are cut, between letters.
func TestLongTextsAreCut(t *testing.T) {
	licenses := strings.Split(strings.Repeat("mit ", 99)+strings.Repeat("x", 1000), " ")
	licenses[1] = strings.Repeat("é", 500)
	p := packageReport(
		t, map[string]any{"description": "a" + strings.Repeat("é", 10_000_000), "licenses": licenses},
	).result().
		Package
	if p == nil {
		t.Fatal("it is refused")
	}
	if n := len(p.Description); n > maxDescription || n < maxDescription-4 || !utf8.ValidString(p.Description) ||
		!strings.HasSuffix(p.Description, "é…") {
		t.Errorf("the description has %d bytes and ends with %q", n, p.Description[n-10:])
	}
	if len(p.Licenses) != 64 || cap(p.Licenses) > 100 || p.Licenses[0] != "mit" || len(p.Licenses[1]) > maxField ||
		!strings.HasSuffix(p.Licenses[1], "é…") {
		t.Errorf("the licences are %d, of %d in memory: %.200q", len(p.Licenses), cap(p.Licenses), p.Licenses)
	}
}

// Failures are bounded, too, whatever the names of a set's attributes.
func TestLongFailures(t *testing.T) {
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint("git", i, strings.Repeat("x", 10_000)))
	}
	for name, fields := range map[string]map[string]any{
		"ambiguous":       {"failure": "ambiguous", "name": "git", "path": nil, "candidates": many},
		"not found":       {"failure": "not-found", "name": "git", "path": nil, "similar": many},
		"inside-package":  {"failure": "inside-package", "name": "a.git", "outputs": many},
		"settings":        {"image": map[string]any{"faults": many}},
		"no such output":  {"outputsToInstall": many[:1]},
		"no path of such": {"outPaths": map[string]string{"out": many[0]}},
	} {
		t.Run(name, func(t *testing.T) {
			result := packageReport(t, fields).result()
			if text, err := json.Marshal(result); err != nil || result.Failure == nil ||
				len(text) > 2*maxMessage+maxEntries*maxField {
				t.Errorf("the result has %d bytes, %v", len(text), err)
			}
		})
	}
}
