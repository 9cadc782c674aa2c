package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestRedaction(t *testing.T) {
	var out bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&out)
	logger.AddHook(redaction{})
	logger.Infof(
		"configuring endpoint %v (%v), timeout=%s, headers=%v", "hook", "http://u:CANARY@example.org", "1s",
		map[string][]string{"Authorization": {"Bearer CANARY"}},
	)
	logger.WithError(errors.New("asking https://u:CANARY@example.org/x")).
		WithField("url", "https://CANARY@example.org").
		Warn("no answer")
	if text := out.String(); strings.Contains(text, "CANARY") || strings.Count(text, "://xxxxx@example.org") != 3 ||
		!strings.Contains(text, "configuring endpoint hook") {
		t.Errorf("logged is %s", text)
	}
}

func TestCloseToOthers(t *testing.T) {
	for _, test := range []struct{ before, want os.FileMode }{
		{0, 0o700}, {0o755, 0o750}, {0o777, 0o770}, {0o700, 0o700}, {0o710, 0o710},
		{os.ModeSetgid | 0o775, os.ModeSetgid | 0o770},
	} {
		dir := filepath.Join(t.TempDir(), "a", "storage")
		if test.before != 0 {
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, test.before)); err != nil {
				t.Fatal(err)
			}
		}
		if err := closeToOthers(dir); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode()&^os.ModeDir != test.want {
			t.Errorf("%v becomes %v, %v, want %v", test.before, info.Mode(), err, test.want)
		}
	}
}

// Who may not write to what another user has stored is told how to.
func TestOwnerFault(t *testing.T) {
	root := t.TempDir()
	if fault := ownerFault(filepath.Join(root, "nothing")); fault != "" {
		t.Error("of a directory that is not there:", fault)
	}
	blobs := filepath.Join(root, "docker/registry/v2/blobs")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	if fault := ownerFault(root); fault != "" {
		t.Error("of a directory of one's own:", fault)
	}
	// Of a file system that nobody may write to.
	if fault := ownerFault("/proc/self"); !strings.Contains(fault, "may not write to /proc/self") ||
		!strings.Contains(fault, "/proc/self`") || !strings.Contains(fault, "chown -R ") {
		t.Errorf("of /proc/self: %q", fault)
	}
}
