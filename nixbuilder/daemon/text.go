package daemon

import (
	"regexp"
	"strings"
	"unicode"
)

// escapes matches terminal control sequences: CSI (colours), OSC (titles, links) and the two-character ones.
var escapes = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|[ -/]*[0-~])")

// plain makes a text that others wrote safe to show: valid UTF-8 without escape sequences and
// control characters, except newline and tab.
func plain(s string) string {
	s = escapes.ReplaceAllString(strings.ToValidUTF8(s, "\uFFFD"), "")
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return -1
		}
		return r
	}, s)
}
