package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	a = "/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-a"
	b = "/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvb-b"
	c = "/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvc-c"
	d = "/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvd-d" // not in the closure
)

var closure = []store.Path{a, b, c}

// file is a file of a test's store. One with a link is a symbolic link; a name that ends in a slash
// is a directory's.
type file struct{ name, content, link string }

func makeStore(t testing.TB, files ...file) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range append(files, file{name: store.Dir + "/"}) {
		name := filepath.Join(root, f.name)
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		switch {
		case err != nil:
		case strings.HasSuffix(f.name, "/"):
			err = os.MkdirAll(name, 0o755)
		case f.link != "":
			err = os.Symlink(f.link, name)
		default:
			err = os.WriteFile(name, []byte(f.content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func one(name string, priority int, outputs ...store.Path) Package {
	return Package{Name: name, Priority: priority, Outputs: outputs}
}

func merged(t testing.TB, root string, packages ...Package) *Tree {
	t.Helper()
	tree, err := Merge(context.Background(), packages, closure, NewStoreFiles(root))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func packed(t testing.TB, tree *Tree) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := tree.Pack(context.Background(), &out, compress.New(compress.None, 1)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// list prints the entries of a tree, one a line: mode, name and a link's target or a file's
// content.
func list(t testing.TB, tree *Tree) []string {
	t.Helper()
	var lines []string
	r := tar.NewReader(bytes.NewReader(packed(t, tree)))
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
		switch h.Typeflag {
		case tar.TypeSymlink:
			lines = append(lines, h.Name+" -> "+h.Linkname)
		case tar.TypeDir:
			lines = append(lines, fmt.Sprintf("%s %04o", h.Name, h.Mode))
		default:
			lines = append(lines, fmt.Sprintf("%s %04o %q", h.Name, h.Mode, data))
		}
	}
}

func TestMergeNothing(t *testing.T) {
	want := []string{
		"bin/ 0755",
		"dev/ 0755",
		"etc/ 0755",
		`etc/group 0644 "root:x:0:\nnobody:x:65534:\n"`,
		`etc/hostname 0644 ""`,
		`etc/hosts 0644 ""`,
		`etc/nsswitch.conf 0644 "hosts: files dns\n"`,
		`etc/passwd 0644 "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/var/empty:/bin/false\n"`,
		`etc/resolv.conf 0644 ""`,
		"proc/ 0755",
		"root/ 0700",
		"run/ 0755",
		"sbin/ 0755",
		"sys/ 0755",
		"tmp/ 1777",
		"usr/ 0755",
		"usr/bin/ 0755",
		"usr/sbin/ 0755",
		"var/ 0755",
		"var/empty/ 0555",
		"var/run -> /run",
		"var/tmp/ 1777",
	}
	if got := list(t, merged(t, makeStore(t))); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMerge(t *testing.T) {
	both := []Package{one("a", 5, a), one("b", 5, b)}
	for _, test := range []struct {
		name     string
		files    []file
		packages []Package
		want     []string // what an image without packages does not have
	}{
		{"files are links, directories are real",
			[]file{
				{name: a + "/bin/x"}, {name: a + "/etc/x.conf"}, {name: a + "/share/doc/empty/"},
				{name: a + "/.hidden"},
			},
			[]Package{one("a", 5, a)},
			[]string{".hidden -> " + a + "/.hidden", "bin/x -> " + a + "/bin/x", "etc/x.conf -> " + a + "/etc/x.conf",
				"share/ 0755", "share/doc/ 0755", "share/doc/empty/ 0755"}},
		{"directories of several packages",
			[]file{{name: a + "/lib/1"}, {name: b + "/lib/2"}}, both,
			[]string{"lib/ 0755", "lib/1 -> " + a + "/lib/1", "lib/2 -> " + b + "/lib/2"}},
		{"several outputs, the first one wins",
			[]file{{name: a + "/x"}, {name: b + "/x"}, {name: b + "/y"}}, []Package{one("p", 5, b, a)},
			[]string{"x -> " + b + "/x", "y -> " + b + "/y"}},
		{"the lower priority wins",
			[]file{{name: a + "/x"}, {name: b + "/x"}}, []Package{one("a", 5, a), one("b", -1, b)},
			[]string{"x -> " + b + "/x"}},
		{"among equals the name decides",
			[]file{{name: a + "/x"}, {name: b + "/x"}}, []Package{one("z", 5, a), one("y", 5, b)},
			[]string{"x -> " + b + "/x"}},
		{"a file before a directory", []file{{name: a + "/x"}, {name: b + "/x/y"}}, both, []string{"x -> " + a + "/x"}},
		{
			"a directory before a file", []file{{name: a + "/x/y"}, {name: b + "/x"}}, both,
			[]string{"x/ 0755", "x/y -> " + a + "/x/y"},
		},
		{"a link to a directory, alone",
			[]file{{name: a + "/lib/x"}, {name: a + "/lib64", link: "lib"}}, []Package{one("a", 5, a)},
			[]string{"lib/ 0755", "lib/x -> " + a + "/lib/x", "lib64 -> " + a + "/lib64"}},
		{"a link to a directory before a directory",
			[]file{{name: a + "/lib/x"}, {name: a + "/lib64", link: "lib"}, {name: b + "/lib64/x"},
				{name: b + "/lib64/y"}}, both,
			[]string{"lib/ 0755", "lib/x -> " + a + "/lib/x", "lib64/ 0755", "lib64/x -> " + a + "/lib/x",
				"lib64/y -> " + b + "/lib64/y"}},
		{"a link to a directory after a directory",
			[]file{{name: a + "/lib64/x"}, {name: b + "/lib64", link: c + "/l"}, {name: c + "/l", link: "m"},
				{name: c + "/m/x"}, {name: c + "/m/y"}}, both,
			[]string{"lib64/ 0755", "lib64/x -> " + a + "/lib64/x", "lib64/y -> " + c + "/m/y"}},
		{"two links to directories",
			[]file{{name: a + "/s", link: c + "/1"}, {name: b + "/s", link: c + "/2"}, {name: c + "/1/x"},
				{name: c + "/2/y"}}, both,
			[]string{"s/ 0755", "s/x -> " + c + "/1/x", "s/y -> " + c + "/2/y"}},
		{"etc and bin are real though the package links them",
			[]file{{name: a + "/etc", link: b + "/etc"}, {name: a + "/bin", link: b + "/bin"}, {name: b + "/etc/x"},
				{name: b + "/bin/y"}}, []Package{one("a", 5, a)},
			[]string{"bin/y -> " + b + "/bin/y", "etc/x -> " + b + "/etc/x"}},
		{"usr is a link to the package itself",
			[]file{{name: a + "/usr", link: "."}, {name: a + "/bin/x"}}, []Package{one("a", 5, a)},
			[]string{"bin/x -> " + a + "/bin/x", "usr/bin/x -> " + a + "/bin/x", "usr/usr -> " + a + "/usr"}},
		{"links in circles",
			[]file{{name: a + "/l/l", link: "."}, {name: b + "/l/l", link: "."}, {name: a + "/m", link: "m"},
				{name: b + "/m/x"}}, both,
			[]string{"l/ 0755", "l/l/ 0755", "l/l/l -> " + a + "/l/l", "m -> " + a + "/m"}},
		{"links out of the store are not followed",
			[]file{
				{name: a + "/etc", link: "/"}, {name: a + "/bin", link: "../../../../etc"}, {
					name: a + "/tmp", link: "/nix/store",
				},
				{name: a + "/s", link: "/"}, {name: b + "/s/x"}, {name: "/etc/secret"},
			}, both,
			[]string{"s -> " + a + "/s"}},
		{"links out of the closure are not followed",
			[]file{{name: a + "/bin", link: d + "/bin"}, {name: a + "/etc", link: "../" + filepath.Base(d) + "/bin"},
				{name: d + "/bin/x"}}, []Package{one("a", 5, a)}, nil},
		{"nothing in place of the store",
			[]file{{name: a + "/nix" + b + "/bin/x"}, {name: a + "/nix/var/y"}, {name: a + "/x/nix"}},
			[]Package{one("a", 5, a)},
			[]string{"x/ 0755", "x/nix -> " + a + "/x/nix"}},
		{"directories keep their modes", []file{{name: a + "/tmp/x"}, {name: a + "/root/y"}}, []Package{one("a", 5, a)},
			[]string{"root/y -> " + a + "/root/y", "tmp/x -> " + a + "/tmp/x"}},
		{
			"a package brings var/run", []file{{name: a + "/var/run/x"}}, []Package{one("a", 5, a)},
			[]string{"var/run/ 0755", "var/run/x -> " + a + "/var/run/x"},
		},
		{"Nix's own files",
			[]file{
				{name: a + "/nix-support/x"}, {name: a + "/propagated-build-inputs"}, {name: a + "/manifest.nix"},
				{name: a + "/manifest.json"}, {name: a + "/log/x"},
				{name: a + "/share/info/dir"}, {name: a + "/lib/perl/perllocal.pod"}, {name: a + "/bin/log"},
				{name: a + "/bin/dir"}, {name: a + "/var/log/"},
			}, []Package{one("a", 5, a)},
			[]string{"bin/dir -> " + a + "/bin/dir", "bin/log -> " + a + "/bin/log", "lib/ 0755", "lib/perl/ 0755",
				"share/ 0755", "share/info/ 0755", "var/log/ 0755"}},
		{"propagated packages come last, those outside the closure not at all",
			[]file{
				{
					name:    a + "/nix-support/propagated-user-env-packages",
					content: " " + c + "\n" + d + " /etc ../" + filepath.Base(b) + " " + a + "\n",
				},
				{name: a + "/x"}, {name: b + "/y"}, {name: c + "/x"}, {name: c + "/y"}, {name: c + "/z"},
				{name: d + "/d"},
			}, []Package{one("a", 5, a), one("b", 9, b)},
			[]string{"x -> " + a + "/x", "y -> " + b + "/y", "z -> " + c + "/z"}},
		{"an output that is a file", []file{{name: a, content: "x"}}, []Package{one("a", 5, a)}, nil},
		{
			"an output that is a link", []file{{name: a, link: b}, {name: b + "/x"}},
			[]Package{one("a", 5, a)}, []string{"x -> " + b + "/x"},
		},
		{"bash before dash",
			[]file{{name: a + "/bin/bash"}, {name: b + "/bin/env"}, {name: b + "/bin/dash"}}, both,
			[]string{
				"bin/bash -> " + a + "/bin/bash", "bin/dash -> " + b + "/bin/dash", "bin/env -> " + b + "/bin/env",
				"bin/sh -> " + a + "/bin/bash",
			}},
		{"a package's own sh", []file{{name: a + "/bin/bash"}, {name: b + "/bin/sh"}}, both,
			[]string{"bin/bash -> " + a + "/bin/bash", "bin/sh -> " + b + "/bin/sh"}},
		{
			"busybox", []file{{name: a + "/bin/busybox"}}, []Package{one("a", 5, a)},
			[]string{"bin/busybox -> " + a + "/bin/busybox", "bin/sh -> " + a + "/bin/busybox"},
		},
		{"certificates, behind a link",
			[]file{{name: a + "/etc/ssl", link: b + "/ssl"}, {name: b + "/ssl/certs/ca-bundle.crt"}},
			[]Package{one("a", 5, a)},
			[]string{
				"etc/pki/ 0755", "etc/pki/tls/ 0755", "etc/pki/tls/certs/ 0755",
				"etc/pki/tls/certs/ca-bundle.crt -> ../../../../etc/ssl/certs/ca-bundle.crt",
				"etc/ssl/ 0755", "etc/ssl/cert.pem -> ../../etc/ssl/certs/ca-bundle.crt", "etc/ssl/certs/ 0755",
				"etc/ssl/certs/ca-bundle.crt -> " + b + "/ssl/certs/ca-bundle.crt",
				"etc/ssl/certs/ca-certificates.crt -> ../../../etc/ssl/certs/ca-bundle.crt",
			}},
		{
			"names of any bytes", []file{{name: a + "/x\xff/\n"}, {name: b + "/x\xff", link: a + "/x\xff"}},
			both, []string{"x\xff/ 0755", "x\xff/\n -> " + a + "/x\xff/\n"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := list(t, merged(t, makeStore(t)))
			got := list(t, merged(t, makeStore(t, test.files...), test.packages...))
			got = slices.DeleteFunc(got, func(line string) bool {
				return slices.Contains(base, line) ||
					strings.Contains(line, " -> ../../bin/") || strings.Contains(line, " -> ../../sbin/") // see TestUsr
			})
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%q\nwant\n%q", got, test.want)
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	for _, test := range []struct {
		name     string
		files    []file
		packages []Package
		want     string
	}{
		{"an output that is not there", nil, []Package{one("a", 5, a)}, "merging " + a + ": it is not in the closure"},
		{
			"an output that is not in the closure", []file{{name: d + "/x"}}, []Package{one("d", 5, d)},
			"merging " + d + ": it is not in the closure",
		},
		{
			"whiteout", []file{{name: a + "/.wh.nix"}}, []Package{one("a", 5, a)},
			`archiving "` + a + `/.wh.nix": names that begin with .wh.`,
		},
		{
			"whiteout deep inside", []file{{name: a + "/x/y/.wh.z/"}}, []Package{one("a", 5, a)},
			`archiving "` + a + `/x/y/.wh.z": names that begin with .wh.`,
		},
		{"propagating too much",
			[]file{{name: a + "/nix-support/propagated-user-env-packages",
				content: strings.Repeat(" ", maxNamesBytes+1)}}, []Package{one("a", 5, a)}, "larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Merge(context.Background(), test.packages, closure, NewStoreFiles(makeStore(t, test.files...)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
	t.Run("no end of links", func(t *testing.T) {
		// Each of two packages has n directories that hold links to all n: n! names, were they all
		// made.
		var files []file
		for i := range 12 {
			for j := range 12 {
				for _, p := range []string{a, b} {
					files = append(files, file{name: fmt.Sprintf("%s/%d/%d", p, i, j), link: fmt.Sprintf("../%d", j)})
				}
			}
		}
		m := newMerger(NewStoreFiles(makeStore(t, files...)), closure)
		m.entries = maxEntries - 10_000 // the rest takes long
		_, errA := m.output(context.Background(), a)
		_, errB := m.output(context.Background(), b)
		if err := errors.Join(errA, errB); err == nil || !strings.Contains(err.Error(), "more than 500000 files") {
			t.Errorf("got error %v, want one about the number of files", err)
		}
	})
	for name, test := range map[string]struct {
		files generatedFiles
		want  string
	}{
		"names that are too long": {generatedFiles{1, 100}, "longer than 4094 bytes"},
		"directories without end": {generatedFiles{100, 4}, "more than 500000 files"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Merge(t.Context(), []Package{one("a", 5, a)}, closure, test.files)
			if unfit := (*layer.UnfitError)(nil); !errors.As(err, &unfit) ||
				!strings.HasPrefix(unfit.Path, string(a)+"/") ||
				!strings.Contains(unfit.Reason, test.want) {
				t.Errorf("got error %v, want one about a file of %s with %q", err, a, test.want)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := Merge(
			ctx, []Package{one("a", 5, a)}, closure, NewStoreFiles(makeStore(t, file{name: a})),
		); err == nil {
			t.Error("no error")
		}
	})
}

// generatedFiles are directories that hold so many others each, down to a depth, with names of 80
// bytes.
type generatedFiles struct{ wide, deep int }

func (generatedFiles) Lstat(_ context.Context, name string) (File, error) {
	if strings.Contains(name, "/") {
		return File{}, fs.ErrNotExist
	}
	return File{Type: fs.ModeDir}, nil
}

func (f generatedFiles) ReadDir(_ context.Context, name string) (files []File, err error) {
	if strings.Count(name, "/") < f.deep {
		for i := range f.wide {
			files = append(files, File{Name: fmt.Sprintf("%080d", i), Type: fs.ModeDir})
		}
	}
	return files, nil
}

func (generatedFiles) ReadFile(context.Context, string, int64) ([]byte, error) {
	return nil, fs.ErrNotExist
}

func TestHas(t *testing.T) {
	tree := merged(t, makeStore(t, file{name: a + "/bin/bash"}, file{name: a + "/bin/dir/x"}), one("a", 5, a))
	for program, want := range map[string]bool{"bash": true, "sh": true, "zsh": false, "dir": false, "dir/x": false,
		"bash/x": false, "": false, "..": false} {
		if got := tree.HasProgram(program); got != want {
			t.Errorf("program %q: got %t, want %t", program, got, want)
		}
	}
}

// FuzzMerge merges packages made out of the input, in several orders. They all give the same bytes
// and variables, every link leads into the closure or to another name of the image, and nothing of
// the image lies in place of the store.
func FuzzMerge(f *testing.F) {
	f.Add([]byte("abin/x\x00\x00bbin/x\x00\x00cbin\x00/etc\x00"), uint8(0))
	f.Add([]byte("al/l\x00.\x00bl/l\x00.\x00cl\x00../../..\x00"), uint8(1))
	f.Add([]byte("as\x00"+b+"/s\x00bs/t\x00"+a+"\x00cnix/store\x00/\x00"), uint8(7))
	f.Add([]byte("abin/python3.1\x00\x00abin/python3\x00python3.1\x00blib/python3.1/site-packages/x\x00\x00"+
		"clib\x00"+b+"/lib\x00cshare/zoneinfo/x\x00\x00cusr/share\x00../share\x00cshare/fonts/x\x00\x00"), uint8(3))
	f.Fuzz(func(t *testing.T, program []byte, priorities uint8) {
		root := makeStore(t, file{name: a + "/"}, file{name: b + "/"}, file{name: c + "/"})
		// A program is a list of: one byte that chooses the package, a name, and a link's target
		// (or nothing: a file), both ended by a zero byte.
		for len(program) > 0 {
			output := closure[int(program[0])%len(closure)]
			name, rest, _ := bytes.Cut(program[1:], []byte{0})
			target, rest, _ := bytes.Cut(rest, []byte{0})
			program = rest
			if !filepath.IsLocal(string(name)) {
				continue
			}
			// Whatever cannot be made is not part of the case.
			dir, err := os.OpenRoot(filepath.Join(root, string(output)))
			if err != nil {
				t.Fatal(err)
			}
			_ = dir.MkdirAll(filepath.Dir(string(name)), 0o755)
			if len(target) > 0 {
				_ = dir.Symlink(string(target), string(name))
			} else {
				_ = dir.WriteFile(string(name), nil, 0o644)
			}
			dir.Close()
		}
		packages := []Package{
			one("a", int(priorities&3), a),
			one("b", int(priorities>>2&3), b),
			one("c", int(priorities>>4&3), c),
		}
		tree, err := Merge(context.Background(), packages, closure, NewStoreFiles(root))
		if err != nil {
			t.Skip(err) // too many files
		}
		var out bytes.Buffer
		if _, err := tree.Pack(context.Background(), &out, compress.New(compress.None, 1)); err != nil {
			t.Skip(err) // a whiteout
		}
		for range 2 {
			packages = append(packages[1:], packages[0])
			again := merged(t, root, packages...)
			if !bytes.Equal(packed(t, again), out.Bytes()) || !maps.Equal(again.Environment(), tree.Environment()) {
				t.Fatal("another order gives other bytes")
			}
		}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Name == "nix" || strings.HasPrefix(h.Name, "nix/") || !filepath.IsLocal(h.Name) {
				t.Errorf("an entry is named %q", h.Name)
			}
			leadsInto := func(p store.Path) bool { return strings.HasPrefix(h.Linkname, string(p)+"/") }
			ok := slices.ContainsFunc(closure, leadsInto) || stays(h.Name, h.Linkname) || h.Name == "var/run" ||
				h.Name == "usr/"+strings.TrimPrefix(h.Linkname, "../../")
			if h.Typeflag == tar.TypeSymlink && !ok {
				t.Errorf("%q links to %q", h.Name, h.Linkname)
			}
		}
	})
}

// stays reports whether a link leads to another name in the image, relative to its own.
func stays(name, target string) bool {
	return strings.HasPrefix(target, "../") && filepath.IsLocal(filepath.Join(filepath.Dir(name), target))
}

// manyFiles is a store whose packages have much in common, and more that they have alone.
func manyFiles(t *testing.T) (root string, packages []Package) {
	var files []file
	random := rand.New(rand.NewPCG(1, 1))
	for i, p := range closure {
		for range 200 {
			files = append(files,
				file{name: fmt.Sprintf("%s/%d/%d/%d", p, random.IntN(3), random.IntN(3), random.IntN(20))},
				file{name: fmt.Sprintf("%s/%d/%d/%d", p, random.IntN(3), 3+random.IntN(100), random.IntN(20))},
				file{name: fmt.Sprintf("%s/own%d/%d/%d", p, i, random.IntN(50), random.IntN(20))})
		}
		packages = append(packages, one(string("zyx"[i]), 5, p))
	}
	return makeStore(t, files...), packages
}

func TestMergeAnyOrder(t *testing.T) {
	root, packages := manyFiles(t)
	packages[1].Priority = 4
	random := rand.New(rand.NewPCG(1, 1))
	want := packed(t, merged(t, root, packages...))
	for range 10 {
		random.Shuffle(len(packages), func(i, j int) { packages[i], packages[j] = packages[j], packages[i] })
		if !bytes.Equal(packed(t, merged(t, root, packages...)), want) {
			t.Fatal("the bytes differ")
		}
	}
}

// Large directories that are one package's come first, the largest before all others, with the
// directories that they are in.
func TestPackSections(t *testing.T) {
	var files []file
	for i := range minSection {
		files = append(
			files,
			file{
				name: fmt.Sprintf("%s/share/big/%03d/x", a, i),
			},
			file{name: fmt.Sprintf("%s/lib/large/%03d", a, i)},
			file{name: fmt.Sprintf("%s/tmp/full/%03d", a, i)},
			file{name: fmt.Sprintf("%s/libexec/other/%03d", b, i)},
		)
	}
	files = append(
		files,
		file{
			name: a + "/bin/x",
		},
		file{name: a + "/lib/large/nix-support/x"},
		file{name: a + "/share/info/dir"},
		file{name: b + "/bin/y"},
		file{name: b + "/share/big/000/y"},
	)
	root := makeStore(t, files...)
	for _, test := range []struct {
		packages []Package
		want     string
	}{
		{[]Package{one("a", 5, a)},
			"share/ share/big/ share/big/N/ share/big/N/x share/info/ lib/ lib/large/ lib/large/N lib/large/nix-support/ lib/large/nix-support/x tmp/ tmp/full/ tmp/full/N bin/ bin/x usr/bin/x"},
		{[]Package{one("a", 5, a), one("b", 5, b)},
			"lib/ lib/large/ lib/large/N lib/large/nix-support/ lib/large/nix-support/x libexec/ libexec/other/ libexec/other/N tmp/ tmp/full/ tmp/full/N " +
				"bin/ bin/x bin/y share/ share/big/ share/big/N/ share/big/N/x share/big/N/y share/info/ usr/bin/x usr/bin/y"},
	} {
		base := list(t, merged(t, makeStore(t)))
		var got []string
		for _, line := range list(t, merged(t, root, test.packages...)) {
			name, _, _ := strings.Cut(line, " ")
			name = regexp.MustCompile("[0-9]{3}").ReplaceAllString(name, "N")
			if !slices.Contains(got, name) && (name == "bin/" || name == "tmp/" || !slices.Contains(base, line)) {
				got = append(got, name)
			}
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%v: got\n%s\nwant\n%s", test.packages, got, test.want)
		}
	}
}

// The content of a directory does not depend on whether something had to look into it.
func TestMergeWhole(t *testing.T) {
	root, packages := manyFiles(t)
	want := list(t, merged(t, root, packages...))
	m := newMerger(NewStoreFiles(root), closure)
	for _, p := range []store.Path{c, b, a} { // as their names are sorted
		if _, err := m.output(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	lazy := 0
	var openAll func(*node)
	openAll = func(n *node) {
		for _, name := range n.sorted() {
			if !n.children[name].isDir() {
				continue
			}
			if n.children[name].lazyDir != "" {
				lazy++
			}
			sub, err := m.open(t.Context(), n, name)
			if err != nil {
				t.Fatal(err)
			}
			openAll(sub)
		}
	}
	openAll(m.root)
	if lazy < 100 {
		t.Errorf("%d directories are lazy: the test shows nothing", lazy)
	}
	got := list(t, &Tree{sources: m.sources, root: m.root})
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Error("they hold something else when they are looked into")
	}
}

// When a package is added, directories in the beginning of the archive, which is known, are not
// listed again.
func TestPackAgain(t *testing.T) {
	var files []file
	for i := range 3 * minSection {
		files = append(
			files, file{name: fmt.Sprintf("%s/share/large/%d/x", a, i)},
			file{name: fmt.Sprintf("%s/share/small/%d", b, i)},
		)
	}
	files = append(files, file{name: a + "/bin/x"}, file{name: b + "/bin/x"}, file{name: c + "/share/x"})
	counted := &countedFiles{Files: NewStoreFiles(makeStore(t, files...))}
	pack := func(compressor *compress.Compressor, packages ...Package) (archive []byte, listed int) {
		tree, err := Merge(t.Context(), packages, closure, counted)
		if err != nil {
			t.Fatal(err)
		}
		counted.listed = 0
		var out bytes.Buffer
		if _, err := tree.Pack(t.Context(), &out, compressor); err != nil {
			t.Fatal(err)
		}
		return out.Bytes(), counted.listed
	}
	used := compress.New(compress.Gzip, 1)
	pack(used, one("a", 5, a), one("c", 5, c))
	for _, test := range []struct {
		packages []Package
		listed   int
	}{
		{[]Package{one("a", 5, a), one("c", 5, c)}, 0},
		{[]Package{one("a", 5, a), one("b", 9, b)}, 1}, // share/small
		{[]Package{one("a", 5, a), one("b", 1, b)}, 0},
	} {
		want, _ := pack(compress.New(compress.Gzip, 1), test.packages...)
		got, listed := pack(used, test.packages...)
		if !bytes.Equal(got, want) {
			t.Errorf("%v: other bytes with what others left in memory", test.packages)
		}
		if listed != test.listed {
			t.Errorf("%v: %d directories were listed, want %d", test.packages, listed, test.listed)
		}
	}
}

// countedFiles count how many directories are listed.
type countedFiles struct {
	Files
	listed int
}

func (f *countedFiles) ReadDir(ctx context.Context, name string) ([]File, error) {
	f.listed++
	return f.Files.ReadDir(ctx, name)
}

// BenchmarkMerge merges and packs two packages of 10,000 files each, half of which collide.
func BenchmarkMerge(bench *testing.B) {
	var files []file
	for i := range 10000 {
		files = append(files, file{name: a + "/share/" + strconv.Itoa(i%100) + "/" + strconv.Itoa(i)},
			file{name: b + "/share/" + strconv.Itoa(i%100) + "/" + strconv.Itoa(i+5000)})
	}
	root := makeStore(bench, files...)
	bench.ReportAllocs()
	for bench.Loop() {
		packed(bench, merged(bench, root, one("a", 5, a), one("b", 5, b)))
	}
}

func TestStoreFilesRemember(t *testing.T) {
	root := makeStore(t, file{name: a + "/bin/x"}, file{name: a + "/bin/y", link: "x"}, file{name: b + "/z"})
	files := NewStoreFiles(root)
	list := func(dir store.Path) []File {
		found, err := files.ReadDir(t.Context(), dir.Base())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	want := []File{{Name: "x"}, {Name: "y", Type: fs.ModeSymlink}}
	if got := list(a + "/bin"); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if err := os.RemoveAll(filepath.Join(root, string(a))); err != nil {
		t.Fatal(err)
	}
	if got := list(a + "/bin"); !slices.Equal(got, want) {
		t.Errorf("remembered %v, want %v", got, want)
	}
}
