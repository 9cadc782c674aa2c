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

// A nixMessage is a line of Nix's internal-json log format. Only errors have a RawMsg. An action
// that Nix starts has a Type, and as Text what people are shown.
type nixMessage struct {
	Action string `json:"action"`
	Type   int    `json:"type"`
	Text   string `json:"text"`
	Level  int    `json:"level"`
	Msg    string `json:"msg"`
	nixFrame
	// Trace tells what was being evaluated, innermost first, if the option --show-trace is set.
	Trace []nixFrame `json:"trace"`
}

type nixFrame struct {
	RawMsg string `json:"raw_msg"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// position is where an error is in the package set's files. Newer versions of Nix already have line
// and column in File.
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

// text is the error with its position. If two values are asserted to be equal and are not, newer
// versions of Nix tell the values, and the assertion is in the trace.
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

// words give texts of different versions of Nix one wording, and leave out advice about options of
// its command line.
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

// hidePaths replaces the place of a package set on this host, and the directories around it, by
// names that clients may know.
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
		// Directories right below the root are on every host: they stay as they are, unless the set
		// is in one.
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

// clean makes a text of Nix fit for clients: without colours, in the same words for all versions,
// with the package set's place shown as "packages", and no longer than anyone reads.
func (s *session) clean(text string) string {
	text = strings.TrimSpace(s.hostPaths.Replace(s.explainLookup(plain(text))))
	text = cut(text, maxMessage)
	for _, w := range words {
		text = w.pattern.ReplaceAllString(text, w.text)
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// notFound matches what Nix says if a name between angle brackets leads nowhere.
var notFound = regexp.MustCompile(`file '(([^/']+)[^']*)' was not found in the Nix search path( \([^)]*\))?`)

// explainLookup names a way out if a set looks up a name in vain. Nix's own advice does not apply
// here.
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

// kinds tell refusals by their words. These are the words of nixpkgs, which other sets use too, and
// of Nix.
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
