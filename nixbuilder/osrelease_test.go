package nixbuilder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

func TestReleaseOf(t *testing.T) {
	write := func(content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, ".version"), []byte(content), 0o644) }
	}
	link := func(target string) func(string) error {
		return func(dir string) error { return os.Symlink(target, filepath.Join(dir, ".version")) }
	}
	for _, test := range []struct {
		name string
		make func(dir string) error
		want string
	}{
		{name: "none"},
		{"as nixpkgs has it", write("26.05"), "26.05"},
		{"with a line break", write("26.05\n"), "26.05"},
		{"a link within the set", func(dir string) error {
			if err := os.Mkdir(filepath.Join(dir, "lib"), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "lib", ".version"), []byte("26.11"), 0o644); err != nil {
				return err
			}
			return link("lib/.version")(dir)
		}, "26.11"},
		{"a link out of it", link("/etc/debian_version"), ""},
		{"a link to itself", link(".version"), ""},
		{"a directory", func(dir string) error { return os.Mkdir(filepath.Join(dir, ".version"), 0o755) }, ""},
		{"what would end the quotes", write(`1"` + "\nID=alpine"), ""},
		{"two lines", write("26.05\n26.11"), ""},
		{"capitals", write("26.05A"), ""},
		{"too long", write(strings.Repeat("1", 65)), ""},
		{"far too long", write(strings.Repeat("1", 1<<20)), ""},
		{"nothing", write(""), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.make != nil {
				if err := test.make(dir); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := releaseOf(source.Pinned{Path: dir}); got != test.want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "packages.nix")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := releaseOf(source.Pinned{Path: file}); got != "" || err != nil {
		t.Errorf("of a set that is one file: %q, %v", got, err)
	}
	if _, err := releaseOf(source.Pinned{Path: file + ".gone"}); err == nil {
		t.Error("no error for a set that is not there")
	}
}

func TestOSRelease(t *testing.T) {
	const want = "ID=nix\nNAME=\"Nix packages\"\nPRETTY_NAME=\"Nix packages 26.05\"\nVERSION_ID=\"26.05\"\n"
	if got := osRelease("26.05"); got.Content != want || got.Name != "etc/os-release" {
		t.Errorf("got %+v, want %q", got, want)
	}
	const without = "ID=nix\nNAME=\"Nix packages\"\nPRETTY_NAME=\"Nix packages\"\n"
	if got := osRelease(""); got.Content != without {
		t.Errorf("without a release: %q, want %q", got.Content, without)
	}
	key := func(release string) string {
		return profile{own: []rootfs.OwnFile{osRelease(release)}}.key(compress.Gzip)
	}
	if key("26.05") == key("26.11") {
		t.Error("root layers of two releases have the same key")
	}
}
