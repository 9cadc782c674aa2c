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

// A nixMessage is a line of Nix's internal-json log format. Only errors have a RawMsg. What Nix starts to do has a Type, and as Text what people are shown.
type nixMessage struct {
	Action string `json:"action"`
	Type   int    `json:"type"`
	Text   string `json:"text"`
	Level  int    `json:"level"`
	Msg    string `json:"msg"`
	RawMsg string `json:"raw_msg"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

func (m nixMessage) position() string {
	if !strings.HasPrefix(m.File, "/") {
		return ""
	}
	return fmt.Sprintf(" (%s:%d:%d)", m.File, m.Line, m.Column)
}

// fetches tells whether Nix says that it begins to fetch something. A set's own messages are no actions of this kind.
func (m nixMessage) fetches() bool {
	const fileTransfer, fetchTree = 101, 112 // of Nix's ActivityType; git has none in older versions
	return m.Action == "start" && (m.Type == fileTransfer || m.Type == fetchTree || strings.HasPrefix(m.Text, "fetching Git repository"))
}

// hidePaths replaces what a host's user calls the place of a package set, and what is around it, by what its clients may know.
func hidePaths(set Source, resolved string, isFile bool, scratch string) *strings.Replacer {
	pairs := []string{scratch + "/root" + store.Dir, store.Dir, scratch, "scratch"}
	for _, name := range slices.Sorted(maps.Keys(set.NixPath)) {
		pairs = append(pairs, set.NixPath[name], "<"+name+">")
	}
	for _, path := range []string{resolved, set.Path} {
		if isFile {
			path = filepath.Dir(path)
		}
		pairs = append(pairs, path, "packages")
		if parent := filepath.Dir(path); parent != "/" && parent != store.Dir {
			pairs = append(pairs, parent, "packages/..")
		}
	}
	return strings.NewReplacer(pairs...) // where several fit, the first one
}

// clean makes a text of Nix fit for clients: without colours, with the package set's place on this host shown as "packages", and
// no longer than anyone reads.
func (s *session) clean(text string) string {
	text = regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(text, "")
	text = s.hostPaths.Replace(s.explainLookup(text))
	text = strings.TrimSpace(text)
	if len(text) > maxMessage {
		text = text[:maxMessage] + "…"
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
		return strings.Replace(text, found[0], "the package set needs <"+found[1]+">, which is not in what packages.nixpath of this registry has", 1)
	}
	return strings.Replace(text, found[0], "the package set needs <"+found[2]+">: packages.nixpath of this registry can say what it is", 1)
}

// classify tells from the text why a package refuses to be evaluated. The words are those of nixpkgs, which other sets
// use too, and of Nix.
func classify(message string) Kind {
	for _, phrase := range []struct {
		text string
		kind Kind
	}{
		{"unfree license", Unfree},
		{"marked as broken", Broken},
		{"marked as insecure", Insecure},
		{"is not available on the requested", Unsupported},
		{"is not supported on", Unsupported},
		{"unable to download", Unfetched},
		{"program 'git' failed", Unfetched},
		{"ailed to fetch git repository", Unfetched},
	} {
		if strings.Contains(message, phrase.text) {
			return phrase.kind
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
