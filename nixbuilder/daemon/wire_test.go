package daemon

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// words is what the daemon sends, from numbers and strings.
func words(values ...any) []byte {
	var b bytes.Buffer
	w := writer{bufio.NewWriter(&b)}
	for _, v := range values {
		switch v := v.(type) {
		case int:
			w.uint(uint64(v))
		case string:
			w.string(v)
		default:
			panic(fmt.Sprintf("%T", v))
		}
	}
	_ = w.flush()
	return b.Bytes()
}

func newReader(b []byte) *reader { return &reader{r: bufio.NewReader(bytes.NewReader(b))} }

func TestReader(t *testing.T) {
	for _, test := range []struct {
		name string
		in   []byte
		read func(*reader) any
		want string // the value or, if there is an error, a part of that
	}{
		{"number", words(7), func(r *reader) any { return r.uint() }, "7"},
		{"half a number", words(7)[:4], func(r *reader) any { return r.uint() }, "unexpected EOF"},
		{"no number", nil, func(r *reader) any { return r.uint() }, "unexpected EOF"},
		{"size", words(7), func(r *reader) any { return r.size() }, "7"},
		{"size out of range", words(-1), func(r *reader) any { return r.size() }, "out of range"},
		{"text", words("hello"), func(r *reader) any { return r.text(5) }, "hello"},
		{
			"text cut short, and what follows", words("hello you", 7),
			func(r *reader) any { return fmt.Sprint(r.text(5), r.uint()) }, "hello7",
		},
		{"text that ends early", words("hello you")[:12], func(r *reader) any { return r.text(100) }, "unexpected EOF"},
		{"text without padding", words("hello")[:13], func(r *reader) any { return r.text(100) }, "EOF"},
		{"text without end", words(-1), func(r *reader) any { return r.text(100) }, "more than 1073741824"},
		{"paths", words(2, pathA, drvA), func(r *reader) any { return r.paths() }, "[" + pathA + " " + drvA + "]"},
		{"paths without end", words(-1), func(r *reader) any { return r.paths() }, "more than 131072"},
		{"fewer paths than said", words(2, pathA), func(r *reader) any { return r.paths() }, "unexpected EOF"},
		{"path elsewhere", words("/etc/passwd"), func(r *reader) any { return r.path() }, "store path"},
		{"unknown field", words(1, 2), func(r *reader) any { a, b := r.fields(); return a + b }, "kind of field 2"},
		{"fields", words(3, 1, "a", 0, 5, 1, "b"), func(r *reader) any { a, b := r.fields(); return a + b }, "a"},
		{"first field a number", words(2, 0, 5, 1, "b"), func(r *reader) any { a, b := r.fields(); return a + b }, "b"},
		{"unknown message", words(5), func(r *reader) any { return r.messages(nil) }, "unknown message 0x5"},
		{
			"error with traces",
			words(msgError, "Error", 0, "Error", "\x1b[31;1merror:\x1b[0m no\n", 0, 2, 0, "while", 0, "when"),
			func(r *reader) any { return r.messages(nil) },
			"nix: error: no",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newReader(test.in)
			got := fmt.Sprint(test.read(r))
			switch {
			case r.err == nil && got != test.want:
				t.Errorf("got %q, want %q", got, test.want)
			case r.err != nil && (test.want == "" || !strings.Contains(r.err.Error(), test.want)):
				t.Errorf("got error %v, want %q", r.err, test.want)
			}
			if _, err := r.r.ReadByte(); r.err == nil && !errors.Is(err, io.EOF) {
				t.Error("something is left unread")
			}
		})
	}
}

func TestLogLines(t *testing.T) {
	in := words(
		msgStartActivity, 1, 3, activityBuild, "building", 4, 1, drvA, 1, "", 0, 1, 0, 1, 0,
		msgStartActivity, 2, 3, activityBuild, "building", 1, 1, "nonsense", 0,
		msgStartActivity, 3, 3, activityBuild, "building", 2, 1, drvA, 1, "ssh://nix@far", 0,
		msgResult, 1, resultBuildLogLine, 1, 1, "one\x1b]0;title\x07 two\r\n",
		msgResult, 2, resultBuildLogLine, 1, 1, "whose?",
		msgResult, 1, 105, 2, 0, 1, 0, 2, // progress
		msgNext, "warning: \x1b[35mthis\x1b[0m\nand that\n",
		msgResult, 1, resultPostBuildLogLine, 1, 1, strings.Repeat("x", keepLineBytes+9),
		msgStopActivity, 1,
		msgResult, 1, resultBuildLogLine, 1, 1, "late",
		msgLast,
	)
	want := []LogLine{
		{Drv: drvA, Builder: "ssh://nix@far"},
		{Drv: drvA, Text: "one two"},
		{Text: "whose?"},
		{Text: "warning: this"},
		{Text: "and that"},
		{Drv: drvA, Text: strings.Repeat("x", keepLineBytes)},
		{Text: "late"},
	}
	var got []LogLine
	if err := newReader(in).messages(func(l LogLine) { got = append(got, l) }); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// The password in a binary cache's URL is not in Nix's messages about the cache.
func TestPlainHidesPasswords(t *testing.T) {
	for text, want := range map[string]string{
		"unable to download 'https://user:secret@cache.example.org/x.narinfo': HTTP error 500": "unable to download 'https://user:xxxxx@cache.example.org/x.narinfo': HTTP error 500",
		"ssh://git@example.org/a and https://:token@b.example.org":                             "ssh://git@example.org/a and https://:xxxxx@b.example.org",
		"https://example.org:8080/@scope/package: a@b":                                         "https://example.org:8080/@scope/package: a@b",
	} {
		if got := plain(text); got != want {
			t.Errorf("plain(%q) = %q, want %q", text, got, want)
		}
	}
}

func FuzzPlain(f *testing.F) {
	for _, seed := range []string{
		"plain", "\x1b[31mred\x1b[0m", "\x1b]8;;http://x\x1b\\link", "\x1b", "a\xffb", "\u009b31m", "\u202etxet",
		"://://a:b@@c:d@", ":/\x00/a\x13:\x01b@",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := plain(s)
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\r\x00\u009b\u202e") || plain(got) != got {
			t.Errorf("plain(%q) = %q", s, got)
		}
	})
}
