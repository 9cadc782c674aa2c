package source

import (
	"errors"
	"os"
	"testing"
)

func TestShape(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(dir string) error
		same   bool
	}{
		{"nothing", func(string) error { return nil }, true},
		{"it is read", func(dir string) error { _, err := os.ReadFile(dir + "/pkgs/a/default.nix"); return err }, true},
		{"a file goes", func(dir string) error { return os.Remove(dir + "/default.nix") }, false},
		{"a directory goes", func(dir string) error { return os.RemoveAll(dir + "/pkgs/a") }, false},
		{"a file of a directory goes", func(dir string) error { return os.Remove(dir + "/pkgs/a/default.nix") }, false},
		{"all goes", os.RemoveAll, false},
		{"all is replaced", func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".old"), os.CopyFS(dir, os.DirFS(dir+".old")))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir() + "/set"
			write(t, dir+"/default.nix", "{ }")
			write(t, dir+"/pkgs/a/default.nix", "{ }")
			other := t.TempDir()
			for name, pinned := range map[string]Pinned{
				"set":              {Path: dir},
				"what it looks up": {Path: other, NixPath: map[string]string{"nixpkgs": dir}},
			} {
				before, err := pinned.Shape()
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if after, err := pinned.Shape(); (after == before && err == nil) != test.same {
						t.Errorf("%s: is the same: %v, %v", name, after == before, err)
					}
				}()
			}
			if err := test.change(dir); err != nil {
				t.Fatal(err)
			}
		})
	}
}
