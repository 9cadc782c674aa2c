package daemon

import (
	"regexp"
	"strings"
	"unicode"
)

// escapes matches terminal control sequences: CSI (colours), OSC (titles, links) and the
// two-character ones.
var escapes = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|[ -/]*[0-~])")

// passwords matches passwords in URLs. Those of binary caches may have one.
var passwords = regexp.MustCompile(`(://[^\s/:@]*):[^\s/@]+@`)

// plain makes a foreign text safe to show: valid UTF-8 without escape sequences, and without
// control characters except newline and tab. Passwords of URLs become those of url.URL.Redacted.
func plain(s string) string {
	s = escapes.ReplaceAllString(strings.ToValidUTF8(s, "\uFFFD"), "")
	s = strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return -1
		}
		return r
	}, s)
	if strings.Contains(s, "@") { // now that nothing can hide them
		s = passwords.ReplaceAllString(s, "$1:xxxxx@")
	}
	return s
}
