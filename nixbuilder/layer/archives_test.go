package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar/nartest"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// archived gives the paths of a test's store as archives.
func archived(t testing.TB, root string) func(store.Path, func(nar.Entry) error) error {
	return func(p store.Path, visit func(nar.Entry) error) error {
		return nar.Read(bytes.NewReader(nartest.Dump(t, filepath.Join(root, string(p)))), visit)
	}
}

// checkArchives checks that paths give the same layer as files and as archives.
func checkArchives(t *testing.T, root string, c compress.Compression, paths ...store.Path) {
	t.Helper()
	want, wantResult := pack(t, root, c, paths...)
	temp := t.TempDir()
	var got bytes.Buffer
	result, err := PackArchives(
		context.Background(), &got, compress.New(c, 2), paths, Options{TempDir: temp}, archived(t, root),
	)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) || !reflect.DeepEqual(result, wantResult) {
		t.Errorf("%v: the layer is another one: %+v, want %+v", c, result, wantResult)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPackArchivesSameBytes(t *testing.T) {
	large := strings.Repeat("large", maxBufferedBytes/4)
	other := strings.Repeat("other", maxBufferedBytes/4)
	for _, test := range []struct {
		name  string
		files []file
	}{
		{"golden", golden()},
		{"one file each", []file{{name: a, content: "x"}, {name: b, content: "x"}}},
		{"a link each", []file{{name: a, link: "/x"}, {name: b, link: "x"}}},
		{"empty directories", []file{{name: a + "/"}, {name: b + "/c/d/"}}},
		{"equal files", []file{
			{name: a + "/1", content: "same"}, {name: a + "/2", content: "else"}, {name: a + "/3", content: "same"},
			{name: a + "/4", content: "else"},
			{name: b + "/1", content: "else"}, {name: b + "/2", content: "same", exec: true},
			{name: b + "/3", content: "same", exec: true},
		}},
		{
			"empty files",
			[]file{{name: a + "/1"}, {name: a + "/2"}, {name: b + "/1", exec: true}, {name: b + "/2", exec: true}},
		},
		{"large files", []file{
			{name: a + "/1", content: large}, {name: a + "/2", content: other}, {name: a + "/3", content: large},
			{name: b + "/1", content: other},
			{name: b + "/2", content: large + "."}, {name: b + "/3", content: other, exec: true},
		}},
		{"about as large as the buffer", []file{
			{name: a + "/1", content: strings.Repeat("1", maxBufferedBytes)},
			{name: a + "/2", content: strings.Repeat("2", maxBufferedBytes)},
			{name: b + "/1", content: strings.Repeat("1", maxBufferedBytes)},
			{name: b + "/2", content: strings.Repeat("2", maxBufferedBytes+1)},
			{name: b + "/3", content: strings.Repeat("2", maxBufferedBytes+1)},
			{name: b + "/4", content: strings.Repeat("2", maxBufferedBytes-1)},
		}},
		{
			"sorted by component",
			[]file{{name: a + "/b/c"}, {name: a + "/b-c"}, {name: a + "/b.c/d"}, {name: a + "/bc"}},
		},
		{"not UTF-8", []file{{name: a + "/\xff", content: "1"}, {name: a + "/l", link: "\xfe"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := makeStore(t, append(test.files, file{name: "nix/store/"})...)
			var paths []store.Path
			for _, p := range []store.Path{pathB, pathA, pathB} {
				if _, err := os.Lstat(filepath.Join(root, string(p))); err == nil {
					paths = append(paths, p)
				}
			}
			for c := compress.Gzip; c <= compress.ZstdChunked; c++ {
				checkArchives(t, root, c, paths...)
			}
		})
	}
}

func TestPackArchivesFails(t *testing.T) {
	gone := errors.New("the connection is gone")
	entry := func(path, content string, size int64) nar.Entry {
		return nar.Entry{Path: path, Mode: 0o444, Size: size, Content: strings.NewReader(content)}
	}
	half := func(path, content string, size int64) nar.Entry {
		e := entry(path, content, size)
		e.Content = io.MultiReader(e.Content, errReader{gone})
		return e
	}
	const large = 2 * maxBufferedBytes
	for _, test := range []struct {
		name    string
		entries []nar.Entry
		temp    string
		want    error
	}{
		{name: "at its first file", entries: []nar.Entry{half("a", "12", 3)}, want: gone},
		{
			name:    "at its second file of a size",
			entries: []nar.Entry{entry("a", "123", 3), half("b", "12", 3)}, want: gone,
		},
		{
			name:    "at a large file",
			entries: []nar.Entry{entry("a", strings.Repeat("1", large), large), half("b", "12", large)},
			want:    gone,
		},
		{name: "cut off", entries: []nar.Entry{entry("a", "123", 3), entry("b", "12", 3)}, want: io.ErrUnexpectedEOF},
		{name: "no directory for temporary files", temp: "/does/not/exist", want: fs.ErrNotExist,
			entries: []nar.Entry{entry("a", strings.Repeat("1", large), large),
				entry("b", strings.Repeat("2", large), large)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			temp := test.temp
			if temp == "" {
				temp = t.TempDir()
			}
			read := func(_ store.Path, visit func(nar.Entry) error) error {
				for _, e := range append([]nar.Entry{{Mode: fs.ModeDir | 0o555}}, test.entries...) {
					if err := visit(e); err != nil {
						return err
					}
				}
				return nil
			}
			_, err := PackArchives(
				context.Background(), io.Discard, compress.New(compress.None, 1), []store.Path{pathA},
				Options{TempDir: temp}, read,
			)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), string(pathA)) {
				t.Errorf("error %v, want %v of %s", err, test.want, pathA)
			}
			if left, _ := os.ReadDir(temp); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
