package source

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// FuzzUnpack checks that no archive writes outside its tree or makes a link that leads out of it,
// and that the files that unpack returns are there.
func FuzzUnpack(f *testing.F) {
	for _, entries := range [][]tar.Header{
		{
			{Name: "x/", Typeflag: tar.TypeDir}, {Name: "x/default.nix"}, {Name: "x/sub/run.sh", Mode: 0o755},
			{Name: "x/link", Linkname: "sub/run.sh", Typeflag: tar.TypeSymlink},
		},
		{{Name: "x/../../outside"}},
		{{Name: "x/out", Linkname: "..", Typeflag: tar.TypeSymlink}, {Name: "x/out/outside"}},
		{{Name: "x/a"}, {Name: "x/a/b"}, {Name: "x/a"}},
		{
			{Name: "x/in", Linkname: "sub", Typeflag: tar.TypeSymlink},
			{Name: "x/sub/", Typeflag: tar.TypeDir}, {Name: "x/in/file"},
		},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, entry := range entries {
			if entry.Typeflag == 0 {
				entry.Typeflag, entry.Size = tar.TypeReg, 1
			}
			if err := w.WriteHeader(&entry); err != nil {
				f.Fatal(err)
			}
			_, _ = w.Write(make([]byte, entry.Size))
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, uncompressed []byte) {
		dir := t.TempDir()
		r, err := newRevisions(filepath.Join(dir, "kept"), 2)
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.begin(true)
		if err != nil {
			t.Fatal(err)
		}
		defer d.end(0)
		compressed, w := io.Pipe()
		go func() {
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
			_, err := z.Write(uncompressed)
			if err == nil {
				err = z.Close()
			}
			w.CloseWithError(err)
		}()
		u := unpacking{draft: d, limit: archiveLimits{bytes: 1 << 20, files: 100}}
		files, _, err := u.unpack(t.Context(), compressed)
		compressed.Close()

		if there, _ := os.ReadDir(dir); len(there) != 1 {
			t.Errorf("outside of what is kept, there is %v", there)
		}
		found := 0
		_ = filepath.WalkDir(d.tree, func(path string, entry fs.DirEntry, walkErr error) error {
			if walkErr != nil {
				t.Error(walkErr)
				return nil
			}
			found++
			rel, _ := filepath.Rel(d.tree, filepath.Dir(path))
			if target, err := os.Readlink(path); err == nil && !filepath.IsLocal(filepath.Join(rel, target)) {
				t.Errorf("%s leads to %s", path, target)
			} else if !entry.IsDir() && !entry.Type().IsRegular() && err != nil {
				t.Errorf("%s is a %v", path, entry.Type())
			}
			return nil
		})
		if err == nil && found != len(files)+1 {
			t.Errorf("there are %d files, and it is said to have %v", found-1, files)
		}
	})
}
