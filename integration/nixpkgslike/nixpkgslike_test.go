package nixpkgslike

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrite makes a small set twice: the same files, and what the Set names is in them.
func TestWrite(t *testing.T) {
	demo := t.TempDir()
	if err := os.WriteFile(filepath.Join(demo, "default.nix"), []byte("{ }"), 0o644); err != nil {
		t.Fatal(err)
	}
	var hashes []string
	for range 2 {
		dir := t.TempDir()
		set, err := Write(dir, demo, 2000, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for kind, names := range map[string][]string{
			"Plain": set.Plain, "Capitals": set.Capitals, "Overridden": set.Overridden, "Python": set.Python,
			"Haskell": set.Haskell, "Renamed": set.Renamed,
			"Removed": set.Removed, "Unfree": set.Unfree, "Broken": set.Broken, "Insecure": set.Insecure,
			"Unsupported": set.Unsupported,
		} {
			if len(names) == 0 {
				t.Errorf("there are no %s", kind)
			}
		}
		for _, name := range append(set.Plain, set.Capitals...) {
			if _, err := os.Stat(filepath.Join(dir, byNameFile(name))); err != nil {
				t.Error(err)
			}
		}
		hashes = append(hashes, hashTree(t, dir))
	}
	if hashes[0] != hashes[1] {
		t.Error("the same arguments give other files")
	}
}

func TestNamesDiffer(t *testing.T) {
	seen := make(map[string]int)
	for i := range 250_000 {
		name := strings.ToLower(attribute(i))
		if j, ok := seen[name]; ok {
			t.Fatalf("%d and %d are both named %s", j, i, name)
		}
		seen[name] = i
	}
}

func hashTree(t *testing.T, dir string) string {
	t.Helper()
	hash := sha256.New()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		fmt.Fprintf(hash, "%q %x", path, sha256.Sum256(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}
