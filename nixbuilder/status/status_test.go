package status

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMessagesAreBounded(t *testing.T) {
	for _, text := range []string{"short", strings.Repeat("ä", maxMessage), "a" + strings.Repeat("ä", maxMessage)} {
		got := Errorf(Denied, "%s", text).Message
		if len(got) > maxMessage+len("…") || !utf8.ValidString(got) || len(text) <= maxMessage && got != text {
			t.Errorf("a message of %d bytes has %d", len(text), len(got))
		}
	}
}
