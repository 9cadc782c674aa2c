package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	pathA = store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-a")
	pathB = store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvb-b")
	a     = "nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-a"
	b     = "nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvb-b"
)

// file is a file of a test's store. One with a link is a symbolic link; a name that ends in a slash
// is a directory's.
type file struct {
	name, content, link string
	exec                bool
}

// makeStore writes files below a new directory, which stands for "/".
func makeStore(t testing.TB, files ...file) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		name := filepath.Join(root, f.name)
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		switch {
		case err != nil:
		case strings.HasSuffix(f.name, "/"):
			err = os.MkdirAll(name, 0o755)
		case f.link != "":
			err = os.Symlink(f.link, name)
		case f.exec:
			err = os.WriteFile(name, []byte(f.content), 0o755)
		default:
			err = os.WriteFile(name, []byte(f.content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func pack(t testing.TB, root string, c compress.Compression, paths ...store.Path) ([]byte, Result) {
	t.Helper()
	var out bytes.Buffer
	result, err := Pack(context.Background(), &out, compress.New(c, 2), paths, Options{StoreRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), result
}

// list prints an archive's entries, one a line.
func list(t testing.TB, archive []byte) []string {
	t.Helper()
	var lines []string
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(time.Unix(1, 0)) {
			t.Errorf("%s: owner %d:%d %q:%q, time %v", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
		line := fmt.Sprintf("%c %04o %q", h.Typeflag, h.Mode, h.Name)
		if h.Linkname != "" {
			line += fmt.Sprintf(" -> %q", h.Linkname)
		}
		if len(data) > 0 {
			line += fmt.Sprintf(" = %.20q", data)
		}
		lines = append(lines, line)
	}
}

func TestPackEntries(t *testing.T) {
	long := strings.Repeat("long", 60)
	big := strings.Repeat("0123456789abcdef", maxBufferedBytes/8)
	for _, test := range []struct {
		name  string
		files []file
		want  []string // below the parent directories
	}{
		{"nothing", nil, nil},
		{"names in the order of their bytes, directories before their content",
			[]file{
				{name: a + "/b"}, {name: a + "/B"}, {name: a + "/a/z"}, {name: a + "/a-"}, {name: a + "/é"},
				{name: b + "/x"},
			},
			[]string{
				`5 0755 "` + a + `/"`, `0 0444 "` + a + `/B"`, `5 0755 "` + a + `/a/"`, `0 0444 "` + a + `/a/z"`,
				`0 0444 "` + a + `/a-"`, `0 0444 "` + a + `/b"`, `0 0444 "` + a + `/é"`, `5 0755 "` + b + `/"`,
				`0 0444 "` + b + `/x"`,
			}},
		{"a path that is a file", []file{{name: a, content: "x", exec: true}}, []string{`0 0555 "` + a + `" = "x"`}},
		{"a path that is a link", []file{{name: a, link: "/etc"}}, []string{`2 0777 "` + a + `" -> "/etc"`}},
		{"links are not followed",
			[]file{
				{name: a + "/loop", link: "."}, {name: a + "/out", link: "../../../../etc"},
				{name: a + "/void", link: "void"},
			},
			[]string{`5 0755 "` + a + `/"`, `2 0777 "` + a + `/loop" -> "."`,
				`2 0777 "` + a + `/out" -> "../../../../etc"`, `2 0777 "` + a + `/void" -> "void"`}},
		{"equal files are linked, if their modes are equal and they are not empty",
			[]file{
				{name: a + "/1", content: "same"}, {name: a + "/2", content: "same"},
				{name: a + "/3", content: "same", exec: true}, {name: a + "/4", content: "size"},
				{name: a + "/5"}, {name: a + "/6"}, {name: b + "/1", content: "same"},
			},
			[]string{
				`5 0755 "` + a + `/"`, `0 0444 "` + a + `/1" = "same"`, `1 0444 "` + a + `/2" -> "` + a + `/1"`,
				`0 0555 "` + a + `/3" = "same"`,
				`0 0444 "` + a + `/4" = "size"`, `0 0444 "` + a + `/5"`, `0 0444 "` + a + `/6"`,
				`5 0755 "` + b + `/"`, `1 0444 "` + b + `/1" -> "` + a + `/1"`,
			}},
		{"files larger than the buffer",
			[]file{
				{name: a + "/1", content: big + "1"}, {name: a + "/2", content: big + "2"},
				{name: a + "/3", content: big + "1"},
			},
			[]string{`5 0755 "` + a + `/"`, `0 0444 "` + a + `/1" = "0123456789abcdef0123"`,
				`0 0444 "` + a + `/2" = "0123456789abcdef0123"`,
				`1 0444 "` + a + `/3" -> "` + a + `/1"`}},
		{"long and odd names",
			[]file{
				{name: a + "/\n"}, {name: a + "/\xff"}, {name: a + "/" + long}, {name: a + "/" + long + "\xff"},
				{name: a + "/l", link: long},
				{name: a + "/m", link: long + "\xff"}, {name: a + "/n", link: "é\n"},
			},
			[]string{
				`5 0755 "` + a + `/"`, `0 0444 "` + a + `/\n"`, `2 0777 "` + a + `/l" -> "` + long + `"`,
				`0 0444 "` + a + `/` + long + `"`,
				`0 0444 "` + a + `/` + long + `\xff"`,
				`2 0777 "` + a + `/m" -> "` + long + `\xff"`, `2 0777 "` + a + `/n" -> "é\n"`,
				`0 0444 "` + a + `/\xff"`,
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := makeStore(t, append(test.files, file{name: "nix/store/"})...)
			var paths []store.Path
			for _, p := range []store.Path{pathB, pathA, pathB} { // any order, repeated
				if _, err := os.Lstat(filepath.Join(root, string(p))); err == nil {
					paths = append(paths, p)
				}
			}
			archive, _ := pack(t, root, compress.None, paths...)
			want := append([]string{`5 0755 "nix/"`, `5 0755 "nix/store/"`}, test.want...)
			if got := list(t, archive); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// golden is the tree whose digests are written down in TestPackGolden.
func golden() []file {
	return []file{
		{name: a + "/bin/hello", content: strings.Repeat("#!hello\n", 100), exec: true},
		{name: a + "/bin/hi", link: "hello"},
		{name: a + "/share/1", content: "equal"},
		{name: a + "/share/2", content: "equal"},
		{name: a + "/share/" + strings.Repeat("n", 200), content: "long"},
		{name: b + "/\xff", content: "bytes"},
		{name: b + "/empty/"},
	}
}

// The digests change when the archive's form does, or with a release of the compressor. Then every
// layer of every registry is made and stored anew, once: a reason to say so in the change log.
func TestPackGolden(t *testing.T) {
	root := makeStore(t, golden()...)
	const diffID = "sha256:1f51866e905d58e53328407ef597f31af23ab7cfb2d290ab7d4aef8739caf7cd"
	for _, test := range []struct {
		compression compress.Compression
		digest      digest.Digest
		decompress  func(io.Reader) (io.Reader, error)
	}{
		{
			compress.Gzip, "sha256:d43c39df111db5e48b6e40375862eca50b610ea9cd9df657dbf548d4920e1c1f",
			func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		},
		{
			compress.Zstd, "sha256:472999a03f339c0bb822e95c87cbbe08103a77ae539c67b86569fb31a0f3d402",
			func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) },
		},
		{compress.None, diffID, func(r io.Reader) (io.Reader, error) { return r, nil }},
	} {
		t.Run(test.compression.String(), func(t *testing.T) {
			blob, result := pack(t, root, test.compression, pathA, pathB)
			if result.Digest != test.digest || result.DiffID != diffID {
				t.Errorf("digest %s, diff ID %s; want %s, %s", result.Digest, result.DiffID, test.digest, diffID)
			}
			if got := digest.FromBytes(blob); got != result.Digest || int64(len(blob)) != result.Size {
				t.Errorf("wrote %d bytes of digest %s, reported %d, %s", len(blob), got, result.Size, result.Digest)
			}
			plain, err := test.decompress(bytes.NewReader(blob))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := digest.FromReader(plain); err != nil || got != result.DiffID {
				t.Errorf("the archive's digest is %s (%v), reported %s", got, err, result.DiffID)
			}
		})
	}
}

// A layer's bytes depend on its paths alone.
func TestPackSameBytes(t *testing.T) {
	want, _ := pack(t, makeStore(t, golden()...), compress.Gzip, pathA, pathB)
	each := func(t *testing.T, root string, do func(string, fs.DirEntry) error) {
		t.Helper()
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			return errors.Join(err, do(name, d))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T) string
	}{
		{"made in another order", func(t *testing.T) string {
			files := golden()
			slices.Reverse(files)
			return makeStore(t, files...)
		}},
		{"umask", func(t *testing.T) string {
			defer syscall.Umask(syscall.Umask(0o077))
			return makeStore(t, golden()...)
		}},
		{"modes", func(t *testing.T) string {
			root := makeStore(t, golden()...)
			each(t, root, func(name string, d fs.DirEntry) error {
				info, err := d.Info()
				if err != nil || d.Type() == fs.ModeSymlink {
					return err
				}
				return os.Chmod(name, info.Mode()|fs.ModeSetuid|0o622)
			})
			return root
		}},
		{"times", func(t *testing.T) string {
			root := makeStore(t, golden()...)
			each(t, root, func(name string, d fs.DirEntry) error {
				if d.Type() == fs.ModeSymlink {
					return nil
				}
				return os.Chtimes(name, time.Unix(1e9, 5), time.Unix(1e9, 5))
			})
			return root
		}},
		{"hard links in the store", func(t *testing.T) string {
			root := makeStore(t, golden()...)
			name := filepath.Join(root, a, "share/2")
			if err := errors.Join(os.Remove(name), os.Link(filepath.Join(root, a, "share/1"), name)); err != nil {
				t.Fatal(err)
			}
			return root
		}},
		{"other paths beside", func(t *testing.T) string {
			beside := file{name: "nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvc-c", content: "equal"}
			return makeStore(t, append(golden(), beside)...)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, _ := pack(t, test.make(t), compress.Gzip, pathB, pathA); !bytes.Equal(got, want) {
				t.Error("the bytes differ")
			}
		})
	}
}

func TestPackRefuses(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, test := range []struct {
		name  string
		files []file
		spoil func(root string) error
		ctx   context.Context
		w     io.Writer
		want  string
	}{
		{name: "no such path", files: []file{{name: "nix/store/"}}, want: "packing " + string(pathA)},
		{name: "no store", want: "opening the store"},
		{name: "pipe", files: []file{{name: a + "/dir/"}}, want: a + `/dir/pipe": it is neither a file`,
			spoil: func(root string) error { return syscall.Mkfifo(filepath.Join(root, a, "dir/pipe"), 0o644) }},
		{name: "socket", files: []file{{name: a + "/dir/"}}, want: a + `/dir/socket": it is neither a file`,
			spoil: func(root string) error {
				return syscall.Mknod(filepath.Join(root, a, "dir/socket"), syscall.S_IFSOCK|0o644, 0)
			}},
		{name: "whiteout", files: []file{{name: a + "/.wh.bin"}}, want: a + `/.wh.bin": names that begin with .wh.`},
		{
			name: "whiteout of a directory", files: []file{{name: a + "/.wh..wh..opq/"}},
			want: "names that begin with .wh.",
		},
		{name: "cancelled", files: []file{{name: a}}, ctx: cancelled, want: context.Canceled.Error()},
		{
			name: "the writer fails", files: []file{{name: a, content: "x"}}, w: fullDisk{},
			want: "writing layer: " + syscall.ENOSPC.Error(),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := makeStore(t, test.files...)
			if test.spoil != nil {
				if err := test.spoil(root); err != nil {
					t.Fatal(err)
				}
			}
			if test.ctx == nil {
				test.ctx = context.Background()
			}
			if test.w == nil {
				test.w = io.Discard
			}
			c := compress.New(compress.Gzip, 2)
			_, err := Pack(test.ctx, test.w, c, []store.Path{pathA}, Options{StoreRoot: root})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A store that changes after its sizes were read gives an error, and not a wrong archive.
func TestPackChangedFile(t *testing.T) {
	for _, test := range []struct {
		name       string
		size, read int
	}{
		{"shorter", 10, 9},
		{"longer", 10, 11},
		{"emptied", 10, 0},
		{"was empty", 0, 1},
		{"shorter, larger than the buffer", 2*maxBufferedBytes + 1, 2 * maxBufferedBytes},
		{"longer, larger than the buffer", 2 * maxBufferedBytes, 2*maxBufferedBytes + 1},
	} {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, shared size %t", test.name, shared), func(t *testing.T) {
				root := makeStore(t, file{name: "f", content: strings.Repeat("x", test.size)})
				dir, err := os.OpenRoot(root)
				if err != nil {
					t.Fatal(err)
				}
				defer dir.Close()
				info, err := dir.Lstat("f")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(filepath.Join(root, "f"), int64(test.read)); err != nil {
					t.Fatal(err)
				}
				e := entry{dir: dir, name: "f", path: "f", info: info}
				_, err = write(context.Background(), io.Discard, compress.New(compress.None, 1), func(a *Tar) error {
					w := newEntryWriter(a, map[fileKind]int{}, make([]byte, maxBufferedBytes))
					if shared {
						w.sizes[e.kind()] = 2
					}
					return w.write(e)
				})
				if err == nil || !strings.Contains(err.Error(), "size changed") {
					t.Errorf("got error %v, want one about the size", err)
				}
			})
		}
	}
}

func TestPackManyLinks(t *testing.T) {
	root := makeStore(t, file{name: a, content: "x"}, file{name: b, content: "x"})
	dir, err := os.OpenRoot(filepath.Join(root, "nix/store"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var out bytes.Buffer
	_, err = write(context.Background(), &out, compress.New(compress.None, 1), func(tar *Tar) error {
		w := newEntryWriter(tar, map[fileKind]int{{1, 0o444}: maxLinks + 2}, make([]byte, maxBufferedBytes))
		w.written[content{0o444, sha256.Sum256([]byte("x"))}] = &original{path: "full", links: maxLinks}
		return walkAll(dir, []store.Path{pathA, pathB}, w.write)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`0 0444 "` + a + `" = "x"`, `1 0444 "` + b + `" -> "` + a + `"`}
	if got := list(t, out.Bytes()); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzPack makes a tree out of the input, packs it in both ways, reads the archive back and
// compares.
func FuzzPack(f *testing.F) {
	f.Add([]byte("dbin\x00fhello\x00text\x00\x00xhi\x00text\x00\x00lsh\x00hello\x00\x00"))
	f.Add([]byte("fa\x00same\x00\x00fb\x00same\x00\x00dc\x00fd\x00same\x00\x00lup\x00../../..\x00\x00"))
	f.Add(
		[]byte("f\xff\n\x00x\x00\x00l" + strings.Repeat("é", 120) + "\x00" + strings.Repeat("\xfe", 300) + "\x00\x00"),
	)
	f.Fuzz(func(t *testing.T, program []byte) {
		root := makeStore(t, file{name: a + "/"})
		want := map[string]string{"nix/": "dir", "nix/store/": "dir", a + "/": "dir"}
		dir := a
		// A program is a list of: an operation of one byte, a name, and an argument, both ended by
		// a zero byte.
		for len(program) > 0 {
			op := program[0]
			rawName, rest, _ := bytes.Cut(program[1:], []byte{0})
			argument, rest, _ := bytes.Cut(rest, []byte{0})
			program = rest
			name := dir + "/" + string(rawName)
			at := filepath.Join(root, name)
			if len(rawName) == 0 || len(rawName) > 255 || bytes.ContainsRune(rawName, '/') ||
				filepath.Base(at) != string(rawName) ||
				strings.HasPrefix(string(rawName), whiteout) ||
				strings.Count(name, "/") > 10 {
				continue
			}
			if _, err := os.Lstat(at); err == nil {
				continue
			}
			var err error
			switch {
			case op == 'd':
				err = os.Mkdir(at, 0o755)
				dir = name
				want[name+"/"] = "dir"
			case op == 'l' && len(argument) > 0 && len(argument) < 4096:
				err = os.Symlink(string(argument), at)
				want[name] = "link " + string(argument)
			case op == 'x':
				err = os.WriteFile(at, argument, 0o755)
				want[name] = "exec " + string(argument)
			default:
				err = os.WriteFile(at, argument, 0o644)
				want[name] = "file " + string(argument)
			}
			if err != nil {
				t.Fatal(err)
			}
		}

		checkArchives(t, root, compress.None, pathA)
		archive, _ := pack(t, root, compress.None, pathA)
		got := map[string]string{}
		r := tar.NewReader(bytes.NewReader(archive))
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := got[h.Name]; twice {
				t.Fatalf("%q is there twice", h.Name)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case h.Typeflag == tar.TypeDir:
				got[h.Name] = "dir"
			case h.Typeflag == tar.TypeSymlink:
				got[h.Name] = "link " + h.Linkname
			case h.Typeflag == tar.TypeLink:
				got[h.Name] = got[h.Linkname]
			case h.Mode == 0o555:
				got[h.Name] = "exec " + string(data)
			default:
				got[h.Name] = "file " + string(data)
			}
		}
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("%q: got %q, want %q", name, got[name], want[name])
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %d entries, want %d", len(got), len(want))
		}
	})
}
