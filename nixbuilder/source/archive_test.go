package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// raw makes a .tar.gz by hand.
func raw(t *testing.T, fill func(z io.Writer, w *tar.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fill(z, tar.NewWriter(z))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The error about a bad archive names it and the reason. Nothing of the archive stays, what was
// there before does, and a mended archive is accepted.
func TestChannelBadArchives(t *testing.T) {
	good := archive(t, nixpkgs(commitB)...)
	outside := filepath.Join(t.TempDir(), "outside")
	damaged := bytes.Clone(good)
	binary.LittleEndian.PutUint32(damaged[len(damaged)-8:], 1)
	zeros := make([]byte, 1<<20)
	many := make([]tar.Header, 300)
	for i := range many {
		many[i].Name = fmt.Sprint("x/", i)
	}
	link := func(name, target string) tar.Header {
		return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}
	}
	serve := func(content []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }
	}
	for _, test := range []struct {
		name  string
		serve http.HandlerFunc
		want  string
	}{
		{"cut off", serve(good[:len(good)/2]), "unexpected EOF"},
		{"cut off before its checksum", serve(good[:len(good)-8]), "unexpected EOF"},
		{"a connection that breaks", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good)))
			_, _ = w.Write(good[:len(good)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "unexpected EOF"},
		{"another checksum", serve(damaged), "invalid checksum"},
		{"no archive", serve([]byte("<!doctype html><title>Rate limit</title>")), "invalid header"},
		{"empty", serve([]byte{}), "EOF"},
		{
			"an error of the server",
			func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusBadGateway) },
			"answers 502",
		},
		{
			"a name that climbs",
			serve(archive(t, tar.Header{Name: "x/../../../../../../../../../" + outside})), "escapes",
		},
		{
			"a file in a link that leads out",
			serve(archive(t, link("x/out", filepath.Dir(outside)), tar.Header{Name: "x/out/outside"})),
			"out of the archive",
		},
		{
			"a file in a link",
			serve(archive(t, tar.Header{Name: "x/dir/y"}, link("x/in", "dir"), tar.Header{Name: "x/in/z"})),
			"no directory",
		},
		{
			"a directory in a file",
			serve(archive(t, tar.Header{Name: "x/file"}, tar.Header{Name: "x/file/sub/", Typeflag: tar.TypeDir})),
			"no directory",
		},
		{"an absolute link", serve(archive(t, link("x/sub/l", "/etc/passwd"))), "out of the archive"},
		{"a relative link", serve(archive(t, link("x/sub/l", "../../etc/passwd"))), "out of the archive"},
		{"a device", serve(archive(t, tar.Header{Name: "x/null", Typeflag: tar.TypeChar})), "neither a file"},
		{"a pipe", serve(archive(t, tar.Header{Name: "x/null", Typeflag: tar.TypeFifo})), "neither a file"},
		{
			"a hard link",
			serve(archive(t, tar.Header{Name: "x/passwd", Linkname: "/etc/passwd", Typeflag: tar.TypeLink})),
			"neither a file",
		},
		{"a name twice", serve(archive(t, tar.Header{Name: "x/a"}, tar.Header{Name: "x/a"})), "twice"},
		{"a link where a file was", serve(archive(t, tar.Header{Name: "x/a"}, link("x/a", "b"))), "twice"},
		{"a long name", serve(archive(t, tar.Header{Name: "x/" + strings.Repeat("n", 256)})), "its name is too long"},
		{"a long path", serve(archive(t, tar.Header{Name: "x" + strings.Repeat("/n", 1100)})), "its name is too long"},
		{"a long link", serve(archive(t, link("x/l", strings.Repeat("n/", 1100)))), "too long a name"},
		{"many files", serve(archive(t, many...)), "more than 200 files"},
		{
			"many directories in one name",
			serve(archive(t, tar.Header{Name: "x" + strings.Repeat("/d", 300)})), "more than 200 files",
		},
		{"a large file", serve(raw(t, func(_ io.Writer, w *tar.Writer) {
			_ = w.WriteHeader(&tar.Header{Name: "x/large", Typeflag: tar.TypeReg, Size: 1 << 40})
			_, _ = w.Write(zeros)
		})), "more than 2097152 bytes"},
		{"many large files", serve(raw(t, func(_ io.Writer, w *tar.Writer) {
			for i := range 4 {
				_ = w.WriteHeader(&tar.Header{
					Name: fmt.Sprint("x/", i), Typeflag: tar.TypeReg, Size: int64(len(zeros)),
				})
				_, _ = w.Write(zeros)
			}
		})), "more than 2097152 bytes"},
		{"a bomb behind the files", serve(raw(t, func(z io.Writer, w *tar.Writer) {
			_ = w.WriteHeader(&tar.Header{Name: "x/a", Typeflag: tar.TypeReg})
			_ = w.Close()
			for range 8 {
				_, _ = z.Write(zeros)
			}
		})), "too large"},
		{"a bomb between the files", serve(raw(t, func(_ io.Writer, w *tar.Writer) {
			for range 8 {
				_ = w.WriteHeader(&tar.Header{
					Typeflag:   tar.TypeXGlobalHeader,
					PAXRecords: map[string]string{"comment": strings.Repeat("0", 900<<10)},
				})
			}
		})), "too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, options := newMirror(t)
			c := channel(t, options)
			c.archives = archiveLimits{bytes: 2 << 20, files: 200}
			before, err := c.Pin(t.Context(), commitA)
			if err != nil {
				t.Fatal(err)
			}
			held := contentOf(t, before.Path)
			kept := contentOf(t, options.Dir)
			fetched := 0
			m.set(func() {
				m.serve = func(w http.ResponseWriter, r *http.Request) { fetched++; test.serve(w, r) }
			})
			passing := strings.HasPrefix(test.name, "cut off") ||
				slices.Contains([]string{"a connection that breaks", "empty", "an error of the server"}, test.name)
			for range 2 {
				_, err := c.Pin(t.Context(), commitB)
				if bad := (*ArchiveError)(nil); errors.As(err, &bad) == passing ||
					bad != nil &&
						(bad.Revision != commitB || !strings.Contains(bad.Reason, test.want) || strings.Contains(
							bad.Reason, options.Dir,
						)) {
					t.Errorf("Pin = %v, want an error of the archive, unless that may be whole the next time", err)
				}
				if err == nil || errors.Is(err, ErrUnknownTag) || !strings.Contains(err.Error(), test.want) ||
					!strings.Contains(err.Error(), "/archive/"+commitB+".tar.gz") {
					t.Errorf("Pin = %v, want the archive's URL and %q", err, test.want)
				}
			}
			if want := map[bool]int{true: 2, false: 1}[passing]; fetched != want {
				t.Errorf("the archive is fetched %d times, want %d", fetched, want)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Error("a file was written outside of the tree")
			}
			now := contentOf(t, options.Dir)
			for name := range now {
				if _, ok := kept[name]; !ok &&
					!strings.HasPrefix(name, "contents") { // contents that no revision has are removed now and then
					t.Errorf("%s is left", name)
				}
			}
			if again, err := c.Pin(t.Context(), commitA); err != nil || !maps.Equal(contentOf(t, again.Path), held) {
				t.Errorf("the revision from before is %+v, %v", again, err)
			}
			m.set(func() { m.serve = nil })
			c.unusable.Purge() // as after a minute
			mended, err := c.Pin(t.Context(), commitB)
			if err != nil {
				t.Fatalf("with the archive mended: %v", err)
			}
			if got := contentOf(t, mended.Path); len(got) != 5 {
				t.Errorf("with the archive mended, the tree has %q", got)
			}
		})
	}
}

// With the product's own limits, an archive that is larger than any set is refused.
func TestChannelLargeArchive(t *testing.T) {
	m, options := newMirror(t)
	m.set(func() {
		m.archives[commitA] = raw(t, func(_ io.Writer, w *tar.Writer) {
			_ = w.WriteHeader(&tar.Header{Name: "x/large", Typeflag: tar.TypeReg, Size: 5 << 30})
		})
	})
	if _, err := channel(t, options).Pin(t.Context(), commitA); err == nil ||
		!strings.Contains(err.Error(), "more than 4294967296 bytes") {
		t.Errorf("Pin = %v", err)
	}
}

// Two commits store once what they have in common, and a file that has not changed is not made
// again.
func TestChannelSharesFiles(t *testing.T) {
	m, options := newMirror(t)
	entries := func(commit string) []tar.Header {
		return append(
			nixpkgs(commit), tar.Header{Name: "x/pkgs/same/same.nix"}, tar.Header{Name: "y/" + commit},
			tar.Header{Name: "y/" + commit[:1] + "/new.nix"},
		)
	}
	m.set(func() {
		for _, commit := range []string{commitA, commitB} {
			m.archives[commit] = archive(t, entries(commit)...)
		}
	})
	c := channel(t, options)
	a, err := c.Pin(t.Context(), commitA)
	if err != nil {
		t.Fatal(err)
	}
	before := contentOf(t, a.Path)
	was := fmt.Sprint(inode(t, a.Path+"/pkgs/same"), inode(t, a.Path+"/pkgs/same/same.nix"))
	b, err := c.Pin(t.Context(), commitB)
	if err != nil {
		t.Fatal(err)
	}
	if now := fmt.Sprint(inode(t, b.Path+"/pkgs/same"), inode(t, b.Path+"/pkgs/same/same.nix")); now != was {
		t.Errorf("what did not change has inodes %s, had %s", now, was)
	}
	if got := read(t, b.Path+"/b/new.nix"); got != "y/b/new.nix" {
		t.Errorf("a new file holds %q", got)
	}
	if _, err := os.Stat(b.Path + "/a"); err == nil {
		t.Error("a file of another commit is there")
	}
	downloads := m.downloads.Load()
	again, err := c.Pin(t.Context(), commitA)
	if err != nil || !maps.Equal(contentOf(t, again.Path), before) || !again.Date.Equal(day) {
		t.Errorf("the first commit is %+v with %q, %v", again, contentOf(t, again.Path), err)
	}
	if m.downloads.Load() != downloads {
		t.Error("a commit that is kept was fetched again")
	}
	if err := os.RemoveAll(options.Dir + "/contents"); err != nil {
		t.Fatal(err)
	}
	m.set(func() { m.archives[commitC] = archive(t, entries(commitC)...) })
	if third, err := c.Pin(t.Context(), commitC); err != nil ||
		read(t, third.Path+"/pkgs/same/same.nix") != "x/pkgs/same/same.nix" {
		t.Errorf("with the contents gone, Pin = %+v, %v", third, err)
	}
}

var commitC = strings.Repeat("c", 40)

// A request to a server that sends nothing, or nearly nothing, ends. Meanwhile revisions that are
// there are served.
func TestChannelHangs(t *testing.T) {
	good := archive(t, nixpkgs(commitB)...)
	for name, hang := range map[string]func(w http.ResponseWriter, r *http.Request){
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"no content": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"a byte now and then": func(w http.ResponseWriter, r *http.Request) {
			for i := range good {
				if _, err := w.Write(good[i : i+1]); err != nil || r.Context().Err() != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, options := newMirror(t)
			c := channel(t, options)
			if _, err := c.Pin(t.Context(), commitA); err != nil {
				t.Fatal(err)
			}
			c.patience = patience{100 * time.Millisecond, 64 << 10}
			begun := make(chan struct{})
			m.set(func() {
				m.serve = func(w http.ResponseWriter, r *http.Request) {
					begun <- struct{}{}
					hang(w, r)
				}
			})
			ended := make(chan error)
			go func() {
				_, err := c.Pin(t.Context(), commitB)
				ended <- err
			}()
			<-begun
			if _, err := c.Pin(t.Context(), commitA); err != nil { // while the other hangs
				t.Errorf("Pin of what is there: %v", err)
			}
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "the server has sent less than") ||
				!strings.Contains(err.Error(), commitB) {
				t.Errorf("Pin = %v", err)
			}
			m.set(func() { m.serve = nil })
			if _, err := c.Pin(t.Context(), commitB); err != nil {
				t.Errorf("once the server answers: %v", err)
			}
		})
	}
	t.Run("a look-up", func(t *testing.T) {
		m, options := newMirror(t)
		options.Refresh = 1
		c := channel(t, options)
		if _, err := c.Pin(t.Context(), Latest); err != nil {
			t.Fatal(err)
		}
		c.patience = patience{100 * time.Millisecond, 64 << 10}
		m.set(func() { m.silent = true })
		if got, err := c.Pin(t.Context(), Latest); err != nil || got.Revision != commitA || got.Stale == nil ||
			!strings.Contains(got.Stale.Error(), "the server has sent less than") {
			t.Errorf("Pin = %+v, %v", got, err)
		}
	})
}

// A server may be slow if it keeps sending.
func TestChannelIsSlow(t *testing.T) {
	m, options := newMirror(t)
	c := channel(t, options)
	c.patience = patience{time.Second, 1}
	good := archive(t, nixpkgs(commitB)...)
	m.set(func() {
		m.serve = func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(good); i += 1 + len(good)/8 {
				_, _ = w.Write(good[i:min(i+1+len(good)/8, len(good))])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(150 * time.Millisecond)
			}
		}
	})
	if _, err := c.Pin(t.Context(), commitB); err != nil {
		t.Error(err)
	}
}
