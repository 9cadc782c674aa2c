package daemon

import (
	"regexp"
	"strings"
	"unicode"
)

// escapes matches terminal control sequences: CSI (colours), OSC (titles, links) and the
// two-character ones.
var escapes = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|[ -/]*[0-~])")

// passwords matches those in URLs, as binary caches may have them.
var passwords = regexp.MustCompile(`(://[^\s/:@]*):[^\s/@]+@`)

// plain makes a text that others wrote safe to show: valid UTF-8 without escape sequences, control
// characters, except newline and tab, and passwords of URLs, which are shown as url.URL.Redacted
// does.
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
