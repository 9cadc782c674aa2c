package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLockFile checks that the lock file of the repository has what the Dockerfile installs, for
// each architecture, and no package twice.
func TestLockFile(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	locked, err := readLock(filepath.Join(root, "deploy", "debian.lock"))
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`apt-get install --yes --no-install-recommends ([^&\\]*)`).FindSubmatch(dockerfile)
	if line == nil {
		t.Fatal("the Dockerfile has no line that scripts/lock-debian.sh could read")
	}
	wanted := append(strings.Fields(string(line[1])), "apt", "base-files", "base-passwd", "dash", "dpkg", "libc6")
	if len(wanted) < 10 {
		t.Fatalf("the Dockerfile installs only %s", line[1])
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		var names []string
		for _, p := range locked.packages[architecture] {
			names = append(names, p.name)
		}
		for _, name := range wanted {
			if !slices.Contains(names, name) {
				t.Errorf("the lock file has no %s for %s: run `make lock`", name, architecture)
			}
		}
		if compact := slices.Compact(slices.Sorted(slices.Values(names))); len(compact) != len(names) {
			t.Errorf("the lock file has packages twice for %s", architecture)
		}
	}
}

func TestReadLockFaults(t *testing.T) {
	t.Parallel()
	const made = "# made: 2026-11-26T14:26:50Z\n"
	sum := strings.Repeat("0", 64)
	for _, test := range []struct{ name, text, want string }{
		{"no time", "amd64\tgit\t1\tmain\tpool/git.deb\t10\t" + sum, "has no line"},
		{"a time that is none", "# made: today\n", "cannot parse"},
		{"too few fields", made + "amd64\tgit\t1\n", ":2: want seven fields"},
		{"no digest", made + "amd64\tgit\t1\tmain\tpool/git.deb\t10\tabc\n", ":2: want seven fields"},
		{"no size", made + "amd64\tgit\t1\tmain\tpool/git.deb\tlarge\t" + sum + "\n", ":2: the size"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "lock")
			if err := os.WriteFile(file, []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := readLock(file); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("reading it: %v, want %q", err, test.want)
			}
		})
	}
}
