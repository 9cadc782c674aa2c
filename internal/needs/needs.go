// Package needs is for tests that take a program or a right which a machine may lack. Without it
// they are skipped, with the reason. In CI they fail instead, so that nobody misses that they did
// not run.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// Missing ends a test that lacks something: it fails if CI is set in the environment, and is
// skipped otherwise. The format says what is missing.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Tool returns the file name of a program in PATH.
func Tool(t testing.TB, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "%s is needed: %v", name, err)
	}
	return file
}

// Root checks that the test runs as root, who is needed for a purpose such as "to mount".
func Root(t testing.TB, purpose string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root is needed %s", purpose)
	}
}
