package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// What is known here of headers is what archive/tar writes.
func TestHeaders(t *testing.T) {
	var names, links []string
	for n := range 130 {
		names = append(
			names, strings.Repeat("n", n+1), strings.Repeat("n/", n/2)+"x", strings.Repeat("d", n)+"/f",
			strings.Repeat("n", n/3)+"/"+strings.Repeat("m", n),
		)
	}
	for n := range 600 {
		links = append(links, strings.Repeat("l", n), strings.Repeat("l/", n/2))
	}
	names = append(names, "naïve", "nul\x00", "\xff", "tab\t\n", "=", " ", strings.Repeat("é", 60))
	links = append(links, "naïve", "nul\x00", "\xff", "../x y", "a=b\n", strings.Repeat("é", 60))
	var entries []tar.Header
	add := func(typeflag byte, mode int64, name, link string) {
		entries = append(
			entries,
			tar.Header{Typeflag: typeflag, Mode: mode, Name: name, Linkname: link, ModTime: time.Unix(1, 0)},
		)
	}
	for i, name := range names {
		add(tar.TypeDir, 0o755, name+"/", "")
		add(tar.TypeDir, 0o1777, name+"/", "")
		add(tar.TypeReg, 0o644, name, "")
		add(tar.TypeSymlink, 0o777, name, links[i%len(links)])
		add(tar.TypeLink, 0o444, name, "target")
	}
	for i, link := range links {
		add(tar.TypeSymlink, 0o777, "name", link)
		add(tar.TypeLink, 0o555, names[i%len(names)], link)
		add(tar.TypeSymlink, 0o777, names[i%len(names)], link)
	}
	known := newHeaders()
	learned := 0
	for _, entry := range entries {
		var want bytes.Buffer
		theirs := entry
		wantErr := tar.NewWriter(&want).WriteHeader(&theirs)
		got, err := known.encode(&entry)
		if err != nil {
			t.Fatal(err)
		}
		if got == nil {
			continue
		}
		learned++
		if wantErr != nil || !bytes.Equal(got, want.Bytes()) {
			t.Fatalf(
				"%c %q to %q is %q, want %q, %v", entry.Typeflag, entry.Name, entry.Linkname, got,
				want.Bytes(), wantErr,
			)
		}
	}
	if learned < len(entries)/3 {
		t.Errorf("%d of %d headers are known", learned, len(entries))
	}
}

// An archive is what archive/tar writes also where entries with and without content follow each
// other.
func TestTarLikeArchiveTar(t *testing.T) {
	var got, want bytes.Buffer
	theirs := tar.NewWriter(&want)
	both := func(err error, h tar.Header, content string) {
		t.Helper()
		h.ModTime, h.Size = time.Unix(1, 0), int64(len(content))
		if err != nil {
			t.Fatal(err)
		}
		if err := theirs.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := theirs.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := write(t.Context(), &got, compress.New(compress.None, 1), func(ours *Tar) error {
		for n := range 40 {
			name, content := fmt.Sprint(n), strings.Repeat("x", n*41)
			long := "/nix/store/" + strings.Repeat("n", 3*n) + "/x"
			both(ours.Dir("dir"+name, 0o755), tar.Header{Typeflag: tar.TypeDir, Name: "dir" + name + "/", Mode: 0o755}, "")
			both(
				ours.File("dir"+name+"/f", 0o644, int64(len(content)), strings.NewReader(content)),
				tar.Header{Typeflag: tar.TypeReg, Name: "dir" + name + "/f", Mode: 0o644}, content,
			)
			both(
				ours.Symlink(name, long),
				tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: long, Mode: 0o777}, "",
			)
			both(
				ours.HardLink("h"+name, "dir"+name+"/f", 0o644),
				tar.Header{Typeflag: tar.TypeLink, Name: "h" + name, Linkname: "dir" + name + "/f", Mode: 0o644},
				"",
			)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Error("the archives differ")
	}
}

// Links of a root layer, with archive/tar and without.
func BenchmarkHeaders(b *testing.B) {
	entry := tar.Header{
		Typeflag: tar.TypeSymlink, Mode: 0o777, Name: "share/man/man1/git-cherry-pick.1.gz", ModTime: time.Unix(1, 0),
		Linkname: "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-git-2.39.5-with-a-name/usr/share/man/man1/git-cherry-pick.1.gz",
	}
	b.Run("archive/tar", func(b *testing.B) {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for b.Loop() {
			h := entry
			if err := w.WriteHeader(&h); err != nil {
				b.Fatal(err)
			}
			out.Reset()
		}
	})
	b.Run("here", func(b *testing.B) {
		known := newHeaders()
		for b.Loop() {
			if got, err := known.encode(&entry); err != nil || got == nil {
				b.Fatal(err)
			}
		}
	})
}
