package nixstore

import (
	"os"
	"strings"
	"testing"
)

func TestUnsafeVersion(t *testing.T) {
	for version, older := range map[string]string{
		"2.8.0": "2.28.7", "2.18.1": "2.28.7", "2.26.3": "2.28.7", "2.28.6": "2.28.7", "2.31.4": "2.31.5",
		"2.34.6": "2.34.7", "1.11": "2.28.7",
		"2.28.7": "", "2.31.5": "", "2.34.7": "", "2.34.8": "", "2.35": "",
		"2.35pre20260101_abc": "", "2.40.0": "", "3.0.0": "",
	} {
		fault := unsafeVersion(version)
		if (fault == "") != (older == "") || !strings.Contains(fault, older) {
			t.Errorf("%s: %q, want older than %q", version, fault, older)
		}
	}
}

func TestManner(t *testing.T) {
	own := os.Geteuid()
	for _, test := range []struct {
		manner manner
		weak   bool
		words  string
	}{
		{manner{Sandboxed: true, User: -1}, false, "builds are sandboxed"},
		{manner{Sandboxed: true, User: own + 1}, false, "as user"},
		{manner{User: own + 1}, true, "not sandboxed"},
		{manner{User: own}, true, "the registry's own"},
		{manner{FellBack: true, User: own + 1}, true, "sandbox-fallback = false"},
	} {
		if text := test.manner.String(); test.manner.weak() != test.weak || !strings.Contains(text, test.words) {
			t.Errorf("%+v: %v, %q", test.manner, test.manner.weak(), text)
		}
	}
}
