package integration

import (
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// DemoPackages is the demo package set, which tests must not change.
func DemoPackages(t testing.TB) string {
	t.Helper()
	Needs(t, "nix-instantiate", "nix-daemon", "apt-get", "dpkg-deb")
	dir, err := shared.demo()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// CopyDemoPackages copies the demo package set. The copy's Nix files may be edited; it shares the
// other files with the original.
func CopyDemoPackages(t testing.TB) string {
	t.Helper()
	demo, dir := DemoPackages(t), Dir(t)
	err := filepath.WalkDir(demo, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(demo, path)
		if err != nil {
			return err
		}
		target := filepath.Join(dir, rel)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case strings.HasSuffix(rel, ".nix"):
			return copyFile(path, target)
		case os.Link(path, target) == nil:
			return nil
		}
		return copyFile(path, target) // on another file system
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// FreshPackages copies testdata/fresh, whose packages no store has built yet. Its program quick
// prints the content of the file text.
func FreshPackages(t testing.TB) string {
	t.Helper()
	dir := freshSet(t, "fresh")
	Write(t, filepath.Join(dir, "text"), "hello")
	return dir
}

// freshSet copies the default.nix of a directory in testdata, with a busybox and a salt of its own.
func freshSet(t testing.TB, name string) string {
	t.Helper()
	busybox, err := filepath.Glob(filepath.Join(DemoPackages(t), "*", "bootstrap", "busybox"))
	if err != nil || len(busybox) == 0 {
		t.Fatalf("the demo package set has no busybox: %v", err)
	}
	dir := Dir(t)
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		filepath.Join("testdata", name, "default.nix"): "default.nix", busybox[0]: "bin/busybox",
	} {
		if err := copyFile(from, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	Write(t, filepath.Join(dir, "salt"), rand.Text())
	return dir
}

// Dir is a new directory that anyone can read. It is removed at the end of the test: all of them
// together take some thirty gigabytes.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(shared.dir, "test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if unmount(dir) == nil {
			_ = os.RemoveAll(dir) // what somebody still writes to goes with all the rest
		}
	})
	return dir
}

// Write replaces a file that anyone may read.
func Write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Read returns what a file holds.
func Read(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode().Perm())
}
