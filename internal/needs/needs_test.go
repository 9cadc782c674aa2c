package needs

import (
	"fmt"
	"strings"
	"testing"
)

// recorder is a test that notes how it is ended.
type recorder struct {
	testing.TB
	ended string
}

func (*recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.ended = "failed: " + fmt.Sprintf(format, args...)
}

func (r *recorder) Skipf(format string, args ...any) {
	if r.ended == "" { // a real test has ended before
		r.ended = "skipped: " + fmt.Sprintf(format, args...)
	}
}

func TestTool(t *testing.T) {
	for ci, want := range map[string]string{
		"": "skipped: no-such-program is needed: ", "true": "failed: no-such-program is needed: ",
	} {
		t.Setenv("CI", ci)
		r := &recorder{TB: t}
		if Tool(r, "no-such-program"); !strings.HasPrefix(r.ended, want) {
			t.Errorf("with CI=%s a test without its tool is %q, want %q", ci, r.ended, want)
		}
		r = &recorder{TB: t}
		if file := Tool(r, "sh"); r.ended != "" || !strings.HasSuffix(file, "/sh") {
			t.Errorf("with CI=%s a test with its tool is %q, and the tool is %s", ci, r.ended, file)
		}
	}
}
