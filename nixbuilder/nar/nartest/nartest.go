// Package nartest writes Nix archives for tests, as `nix-store --dump` does. go-nix writes
// something else where a name begins with two dots.
package nartest

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// Words writes words as archives have them, one after the other.
func Words(b *bytes.Buffer, words ...string) {
	for _, word := range words {
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(word))))
		b.WriteString(word)
		b.Write(make([]byte, -len(word)&7))
	}
}

// Dump returns the archive of a file, directory or symbolic link.
func Dump(t testing.TB, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	Words(&b, "nix-archive-1")
	if err := dump(&b, name); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dump(b *bytes.Buffer, name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	Words(b, "(", "type")
	switch {
	case info.IsDir():
		Words(b, "directory")
		entries, err := os.ReadDir(name)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			Words(b, "entry", "(", "name", entry.Name(), "node")
			if err := dump(b, filepath.Join(name, entry.Name())); err != nil {
				return err
			}
			Words(b, ")")
		}
	case info.Mode().IsRegular():
		Words(b, "regular")
		if info.Mode()&0o100 != 0 {
			Words(b, "executable", "")
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		Words(b, "contents", string(content))
	default:
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		Words(b, "symlink", "target", target)
	}
	Words(b, ")")
	return nil
}
