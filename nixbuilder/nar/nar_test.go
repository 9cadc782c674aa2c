package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	gonix "github.com/nix-community/go-nix/pkg/nar"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nar/nartest"
)

// archive writes words as archives have them. A word that begins with "raw:" is written as it is.
func archive(words ...string) []byte {
	var b bytes.Buffer
	for _, word := range words {
		if raw, ok := strings.CutPrefix(word, "raw:"); ok {
			b.WriteString(raw)
			continue
		}
		nartest.Words(&b, word)
	}
	return b.Bytes()
}

func words(lists ...any) (all []string) {
	for _, list := range lists {
		switch list := list.(type) {
		case string:
			all = append(all, list)
		case []string:
			all = append(all, list...)
		}
	}
	return all
}

func file(content string) []string {
	return []string{"(", "type", "regular", "contents", content, ")"}
}

func dir(namesAndNodes ...any) []string {
	all := []string{"(", "type", "directory"}
	for i := 0; i < len(namesAndNodes); i += 2 {
		all = words(all, "entry", "(", "name", namesAndNodes[i], "node", namesAndNodes[i+1], ")")
	}
	return append(all, ")")
}

// describe reads an archive and lists what is in it.
func describe(b []byte) (list []string, err error) {
	err = Read(bytes.NewReader(b), func(e Entry) error {
		line := fmt.Sprintf("%v %q", e.Mode, e.Path)
		switch {
		case e.Target != "":
			line += " -> " + e.Target
		case e.Content != nil:
			content, err := io.ReadAll(e.Content)
			if err != nil || int64(len(content)) > e.Size {
				return fmt.Errorf("%d bytes of %d: %w", len(content), e.Size, err)
			}
			line += fmt.Sprintf(" %q", content)
		}
		list = append(list, line)
		return nil
	})
	return list, err
}

func TestRead(t *testing.T) {
	for _, test := range []struct {
		name  string
		words []string
		want  []string
	}{
		{"file", file("text"), []string{`-r--r--r-- "" "text"`}},
		{"empty file", file(""), []string{`-r--r--r-- "" ""`}},
		{
			"program", []string{"(", "type", "regular", "executable", "", "contents", "12345678", ")"},
			[]string{`-r-xr-xr-x "" "12345678"`},
		},
		{"link", []string{"(", "type", "symlink", "target", "../a", ")"}, []string{`Lrwxrwxrwx "" -> ../a`}},
		{"empty directory", dir(), []string{`dr-xr-xr-x ""`}},
		{"directories", dir("a", dir("b", file("1"), "c", file("2")), "a-b", dir(), "a.", file("3")), []string{
			`dr-xr-xr-x ""`, `dr-xr-xr-x "a"`, `-r--r--r-- "a/b" "1"`, `-r--r--r-- "a/c" "2"`, `dr-xr-xr-x "a-b"`,
			`-r--r--r-- "a." "3"`,
		}},
		{"bytes as names", dir("\xff", file("")), []string{`dr-xr-xr-x ""`, `-r--r--r-- "\xff" ""`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			whole := archive(words(magic, test.words)...)
			got, err := describe(whole)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
			for n := range len(whole) {
				if _, err := describe(whole[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("cut off after %d bytes: %v", n, err)
				}
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	deep := dir()
	for range maxPathBytes {
		deep = dir("d", deep)
	}
	for _, test := range []struct {
		name  string
		words []string
		want  string
	}{
		{"another format", []string{"nix-archive-2"}, `"nix-archive-2" in the place of`},
		{"device", words(magic, "(", "type", "device", ")"), `unknown type "device"`},
		{"up", words(magic, dir("..", file(""))), `entry named ".."`},
		{"itself", words(magic, dir(".", file(""))), `entry named "."`},
		{"no name", words(magic, dir("", file(""))), `entry named ""`},
		{"slash", words(magic, dir("a/b", file(""))), `entry named "a/b"`},
		{"zero byte", words(magic, dir("a\x00", file(""))), `entry named "a\x00"`},
		{"twice", words(magic, dir("a", file(""), "a", file(""))), `"a" follows "a"`},
		{"wrong order", words(magic, dir("b", file(""), "a", file(""))), `"a" follows "b"`},
		{"long name", words(magic, dir(strings.Repeat("a", 256), file(""))), "a word of 256 bytes"},
		{"deep", words(magic, deep), "longer than 4095 bytes"},
		{"link to nothing", words(magic, "(", "type", "symlink", "target", "", ")"), `links to ""`},
		{
			"long link", words(magic, "(", "type", "symlink", "target", strings.Repeat("a", 4096), ")"),
			"a word of 4096 bytes",
		},
		{
			"mark with content", words(magic, "(", "type", "regular", "executable", "x", "contents", "", ")"),
			`"x" in the place of ""`,
		},
		{"no content", words(magic, "(", "type", "regular", ")"), "in the place of its content"},
		{
			"huge file",
			words(magic, "(", "type", "regular", "contents", "raw:\xff\xff\xff\xff\xff\xff\xff\xff"),
			"more than 63 bits",
		},
		{"huge word", []string{"raw:\xff\xff\xff\xff\xff\xff\xff\xff"}, "a word of 18446744073709551615 bytes"},
		{
			"padding",
			words(
				magic, "(", "type", "regular", "contents",
				"raw:\x01\x00\x00\x00\x00\x00\x00\x00xx\x00\x00\x00\x00\x00\x00", ")",
			),
			"zeros are missing",
		},
		{"no entry", words(magic, "(", "type", "directory", "other"), `"other" in the place of an entry`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := describe(archive(test.words...)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

// Content that the visitor does not read is passed over. An error of the visitor ends the reading.
func TestReadVisitor(t *testing.T) {
	whole := archive(words(magic, dir("a", file("123456789"), "b", file("1")))...)
	var seen []string
	stop := errors.New("stop")
	err := Read(bytes.NewReader(whole), func(e Entry) error {
		seen = append(seen, e.Path)
		if e.Path == "b" {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || !reflect.DeepEqual(seen, []string{"", "a", "b"}) {
		t.Errorf("visited %q, %v", seen, err)
	}
}

// FuzzRead checks that another implementation writes the same bytes from what Read visits, and that
// the listing of an archive has its entries.
func FuzzRead(f *testing.F) {
	f.Add(
		archive(
			words(
				magic,
				dir("a", file("1"), "b", dir("c", file("")), "l", []string{"(", "type", "symlink", "target", "a", ")"}),
			)...),
	)
	f.Add(archive(words(magic, dir("nix-support", dir("propagated-user-env-packages", file("/nix/store/x"))))...))
	f.Add(archive(words(magic, file("text"))...))
	f.Fuzz(func(t *testing.T, input []byte) {
		var again bytes.Buffer
		writer, err := gonix.NewWriter(&again)
		if err != nil {
			t.Fatal(err)
		}
		lister := Lister{Keep: func(path string) bool { return path != "a" }, Max: 1 << 20}
		var entries []Entry
		r := bytes.NewReader(input)
		err = Read(r, func(e Entry) error {
			if err := lister.Add(&e); err != nil {
				return err
			}
			entries = append(entries, e)
			header := gonix.Header{
				Path:       "/" + e.Path,
				Type:       gonix.TypeRegular,
				Size:       e.Size,
				Executable: e.Mode == 0o555,
			}
			switch {
			case e.Mode.IsDir():
				header = gonix.Header{Path: header.Path, Type: gonix.TypeDirectory}
			case e.Target != "":
				header = gonix.Header{Path: header.Path, Type: gonix.TypeSymlink, LinkTarget: e.Target}
			}
			if e.Size > int64(len(input)) {
				return io.ErrUnexpectedEOF
			}
			if strings.Contains(e.Path, "..") {
				return errors.New("the writer can't write that")
			}
			if err := writer.WriteHeader(&header); err != nil {
				t.Fatal(err)
			}
			if e.Content != nil {
				n, err := io.Copy(writer, e.Content)
				if err == nil && n < e.Size {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			return nil
		})
		closeErr := writer.Close()
		if err != nil {
			return
		}
		if closeErr != nil {
			t.Fatal(closeErr)
		}
		if read := input[:len(input)-r.Len()]; !bytes.Equal(again.Bytes(), read) {
			t.Fatalf("read\n%q\nwritten\n%q", read, again.Bytes())
		}
		checkListing(t, lister, entries)
	})
}

func checkListing(t *testing.T, lister Lister, entries []Entry) {
	t.Helper()
	written, ok := lister.Bytes()
	if !ok {
		t.Fatal("the listing is too large")
	}
	listing, err := ParseListing(written)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	var walk func(*Listing)
	walk = func(l *Listing) {
		count++
		for _, child := range l.Children {
			walk(child)
		}
	}
	walk(listing)
	if count != len(entries) {
		t.Errorf("the listing has %d entries, want %d", count, len(entries))
	}
	for _, e := range entries {
		found := listing.Find(e.Path)
		if found == nil || found.Type != e.Mode.Type() || found.Target != e.Target {
			t.Errorf("%q is listed as %+v, want %+v", e.Path, found, e)
		}
	}
}
