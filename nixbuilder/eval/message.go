package eval

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// maxMessage is the longest text of a failure, in bytes.
const maxMessage = 2 << 10

// A nixMessage is a line of Nix's internal-json log format. Only errors have a RawMsg. What Nix
// starts to do has a Type, and as Text what people are shown.
type nixMessage struct {
	Action string `json:"action"`
	Type   int    `json:"type"`
	Text   string `json:"text"`
	Level  int    `json:"level"`
	Msg    string `json:"msg"`
	nixFrame
	// Trace is what was being evaluated, innermost first. It is there with the option --show-trace.
	Trace []nixFrame `json:"trace"`
}

type nixFrame struct {
	RawMsg string `json:"raw_msg"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// position is where an error is, in the package set's files. What newer versions of Nix call a file
// has line and column already.
func (f nixFrame) position() string {
	if !strings.HasPrefix(f.File, "/") {
		return ""
	}
	at := fmt.Sprintf(":%d:%d", f.Line, f.Column)
	return " (" + strings.TrimSuffix(f.File, at) + at + ")"
}

var (
	unequal   = regexp.MustCompile(`is not equal to|^attribute name '.*' is contained in`)
	assertion = regexp.MustCompile(`^while evaluating the condition of the (assertion '.*')$`)
)

// text is the error with its position. Of an assertion that two values are equal, newer versions of
// Nix tell the values; the assertion is in the trace.
func (m nixMessage) text() string {
	if unequal.MatchString(plain(m.RawMsg)) {
		for _, frame := range m.Trace {
			if found := assertion.FindStringSubmatch(plain(frame.RawMsg)); found != nil {
				return found[1] + " failed" + frame.position()
			}
		}
	}
	return m.RawMsg + m.position()
}

var colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// plain is a text of Nix without colours.
func plain(text string) string { return colours.ReplaceAllString(text, "") }

// words are what versions of Nix say in different words, and what is said instead: advice about
// options of its command line is left out, too.
var words = []struct {
	pattern *regexp.Regexp
	text    string
}{
	// 2.8, the first one also 2.26
	{
		regexp.MustCompile(`^(?:getting status of|opening file) '(.*)': No such file or directory`),
		"path '$1' does not exist",
	},
	{
		regexp.MustCompile(`^anonymous function at (.*:\d+:\d+) (called with.*?)( \(.*\))?$`),
		"function 'anonymous lambda' $2 ($1)",
	},
	{regexp.MustCompile(`^'(.*)' at (.*:\d+:\d+) (called with.*?)( \(.*\))?$`), "function '$1' $3 ($2)"},
	{
		regexp.MustCompile(`^store path '[0-9a-z]{32}-(.*)' contains illegal character '(.*)'`),
		"invalid derivation name: name '$1' contains illegal character '$2'",
	},
	// 2.26
	{regexp.MustCompile(`^stack overflow; max-call-depth exceeded`), "stack overflow (possible infinite recursion)"},
	{regexp.MustCompile(`^(invalid derivation name: .*)\. Please pass a different 'name'\.`), "$1"},
	{
		regexp.MustCompile(`^(attempt to call something which is not a function but [^:]*): .*?( \(.*:\d+:\d+\))?$`),
		"$1$2",
	},
	// all
	{regexp.MustCompile(`^(experimental Nix feature '.*' is disabled);.*`), "$1"},
}

// fetches tells whether Nix says that it begins to fetch something. A set's own messages are no
// actions of this kind.
func (m nixMessage) fetches() bool {
	const fileTransfer, fetchTree = 101, 112 // of Nix's ActivityType; git has none in older versions
	return m.Action == "start" &&
		(m.Type == fileTransfer || m.Type == fetchTree || strings.HasPrefix(m.Text, "fetching Git repository"))
}

// hidePaths replaces what a host's user calls the place of a package set, and what is around it, by
// what its clients may know.
func hidePaths(set Source, resolved string, isFile bool, scratch string) *strings.Replacer {
	type place struct{ path, name string }
	places := []place{{scratch + "/root" + store.Dir, store.Dir}, {scratch, "scratch"}}
	for _, name := range slices.Sorted(maps.Keys(set.NixPath)) {
		places = append(places, place{set.NixPath[name], "<" + name + ">"})
	}
	for _, path := range []string{resolved, set.Path} {
		if isFile {
			path = filepath.Dir(path)
		}
		places = append(places, place{path, "packages"})
		// Those right below the root directory every host has, unless the set lies there.
		for above := "packages/.."; filepath.IsAbs(path); above += "/.." {
			path = filepath.Dir(path)
			if path == "/" || path == store.Dir || filepath.Dir(path) == "/" && above != "packages/.." {
				break
			}
			places = append(places, place{path, above})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return len(b.path) - len(a.path) })
	pairs := make([]string, 0, 2*len(places))
	for _, p := range places {
		pairs = append(pairs, p.path, p.name)
	}
	return strings.NewReplacer(pairs...) // where several fit, the first one
}

// clean makes a text of Nix fit for clients: without colours, in the words of any version, with the
// package set's place on this host shown as "packages", and no longer than anyone reads.
func (s *session) clean(text string) string {
	text = strings.TrimSpace(s.hostPaths.Replace(s.explainLookup(plain(text))))
	text = cut(text, maxMessage)
	for _, w := range words {
		text = w.pattern.ReplaceAllString(text, w.text)
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// notFound is how Nix says that a name between angle brackets leads nowhere.
var notFound = regexp.MustCompile(`file '(([^/']+)[^']*)' was not found in the Nix search path( \([^)]*\))?`)

// explainLookup names the way out where a set looks up what it can't: Nix's own is none here.
func (s *session) explainLookup(text string) string {
	found := notFound.FindStringSubmatch(text)
	if found == nil {
		return text
	}
	if _, ok := s.source.NixPath[found[2]]; ok {
		return strings.Replace(
			text, found[0],
			"the package set needs <"+found[1]+">, which is not in what packages.nixpath of this registry has",
			1,
		)
	}
	return strings.Replace(
		text, found[0],
		"the package set needs <"+found[2]+">: packages.nixpath of this registry can say what it is", 1,
	)
}

// kinds are what refusals are known by. The words are those of nixpkgs, which other sets use too,
// and of Nix.
var kinds = []struct {
	words string
	kind  Kind
}{
	{"unfree license", Unfree},
	{"marked as broken", Broken},
	{"has problems:\n- broken", Broken},
	{"marked as insecure", Insecure},
	{"is not available on the requested", Unsupported},
	{"is not supported on", Unsupported},
	{"unable to download", Unfetched},
	{"program 'git' failed", Unfetched},
	{"ailed to fetch git repository", Unfetched},
}

// classify tells from the text why a package refuses to be evaluated.
func classify(message string) Kind {
	for _, k := range kinds {
		if strings.Contains(message, k.words) {
			return k.kind
		}
	}
	return Throws
}

// typeName is what people call a type of the Nix language.
func typeName(nixType string) string {
	switch nixType {
	case "lambda":
		return "function"
	case "set":
		return "attribute set"
	}
	return nixType
}
