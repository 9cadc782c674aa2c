package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
)

// etcOf returns /etc of an image of a and b, which has the better priority.
func etcOf(t *testing.T, files ...file) map[string]string {
	t.Helper()
	root := makeStore(t, append(files, file{name: a + "/"}, file{name: b + "/"})...)
	etc := make(map[string]string)
	for _, line := range list(t, merged(t, root, one("a", 5, a), one("b", 4, b))) {
		if name, ok := strings.CutPrefix(line, "etc/"); ok && name != " 0755" {
			name, rest, _ := strings.Cut(name, " ")
			etc[name] = rest
		}
	}
	return etc
}

const (
	ownUsers  = `root:x:0:0:root:/root:/bin/sh\n`
	ownNobody = `nobody:x:65534:65534:nobody:/var/empty:/bin/false\n`
)

// What a package has of these files is in images as a regular file.
func TestEtcIsRegular(t *testing.T) {
	large := strings.Repeat("x", maxEtcBytes)
	for _, test := range []struct {
		name  string
		files []file
		etc   string
		want  string // "": there is none
	}{
		{"a file", []file{{name: a + "/etc/hosts", content: "1"}}, "hosts", `0644 "1"`},
		{"a link", []file{{name: a + "/etc/hosts", link: b + "/x"}, {name: b + "/x", content: "1"}},
			"hosts", `0644 "1"`},
		{"a chain of links over directories",
			[]file{{name: a + "/etc", link: b + "/e"}, {name: b + "/e/hosts", link: "../y/hosts"},
				{name: b + "/y", link: "z"}, {name: b + "/z/hosts", link: c}, {name: c, content: "1"}},
			"hosts", `0644 "1"`},
		{"the better priority", []file{{name: a + "/etc/hosts", content: "1"}, {name: b + "/etc/hosts", content: "2"}},
			"hosts", `0644 "2"`},
		{"a better priority that leads nowhere",
			[]file{{name: a + "/etc/nsswitch.conf", content: "1"}, {name: b + "/etc/nsswitch.conf", link: "none"}},
			"nsswitch.conf", `0644 "1"`},
		{"a link out of the closure",
			[]file{{name: a + "/etc/hosts", link: d + "/hosts"}, {name: d + "/hosts", content: "secret"}},
			"hosts", `0644 ""`},
		{"a link to what runtimes have",
			[]file{{name: a + "/etc/resolv.conf", link: "/run/systemd/resolve/stub-resolv.conf"}},
			"resolv.conf", `0644 ""`},
		{"a link to a file of the host",
			[]file{{name: a + "/etc/shadow", link: "/etc/shadow"},
				{name: b + "/etc/shadow", link: "../../../../etc/shadow"},
				{name: "/etc/shadow", content: "root:secret:1::::::\n"}}, "shadow", ""},
		{"a link in a circle", []file{{name: a + "/etc/hosts", link: "hosts"}}, "hosts", `0644 ""`},
		{"a directory", []file{{name: a + "/etc/passwd/x"}}, "passwd", `0644 "` + ownUsers + ownNobody + `"`},
		{"an empty file", []file{{name: a + "/etc/nsswitch.conf"}}, "nsswitch.conf", `0644 ""`},
		{"an empty file of passwords", []file{{name: a + "/etc/shadow"}}, "shadow", ""},
		{"the largest file", []file{{name: a + "/etc/hosts", content: large}}, "hosts", `0644 "` + large + `"`},
		{"not below /etc", []file{{name: a + "/share/etc/hosts", content: "1"}}, "hosts", `0644 ""`},
		{"another file", []file{{name: a + "/etc/fstab", content: "1"}}, "fstab", "-> " + a + "/etc/fstab"},
		{"passwords", []file{{name: a + "/etc/shadow", content: "app:!:1::::::\n"}},
			"shadow", `0600 "app:!:1::::::\n"`},
		{"passwords of groups", []file{{name: a + "/etc/gshadow", content: "app:!::\n"}},
			"gshadow", `0600 "app:!::\n"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := etcOf(t, test.files...)[test.etc]; got != test.want {
				t.Errorf("%s is %.200q, want %.200q", test.etc, got, test.want)
			}
		})
	}
}

// containerd 2.2 opens the files of accounts in this way: no link may lead out of the root
// directory.
func TestEtcOpensWithinTheRoot(t *testing.T) {
	root := makeStore(t,
		file{name: a + "/etc", link: b + "/e"}, file{name: b + "/e/passwd", link: c},
		file{name: b + "/e/group", content: "app:x:1000:\n"}, file{name: c, content: "app:x:1000:1000::/:/bin/sh\n"},
	)
	dir := t.TempDir()
	unpacked, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unpacked.Close()
	r := tar.NewReader(bytes.NewReader(packed(t, merged(t, root, one("a", 5, a)))))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = unpacked.MkdirAll(filepath.Clean(h.Name), 0o755)
		case tar.TypeSymlink:
			err = unpacked.Symlink(h.Linkname, h.Name)
		default:
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = unpacked.WriteFile(h.Name, content, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range etcFiles() {
		content, err := unpacked.ReadFile("etc/" + f.name)
		if f.own == "" && !f.mounted && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || f.lines != nil && !strings.Contains(string(content), "app:x:1000:") {
			t.Errorf("/etc/%s is %q, %v", f.name, content, err)
		}
	}
}

func TestEtcIsBounded(t *testing.T) {
	comments := strings.Repeat("#\n", maxEtcBytes/2-1)
	for _, test := range []struct {
		name  string
		files []file
		path  string // of the error; "": none
	}{
		{"a file", []file{{name: a + "/etc/hosts", content: strings.Repeat("x", maxEtcBytes+1)}}, a + "/etc/hosts"},
		{"a file at the end of a link",
			[]file{{name: a + "/etc/passwd", link: b + "/x"},
				{name: b + "/x", content: strings.Repeat("x", maxEtcBytes+1)}},
			b + "/x"},
		{"a file that is not looked at",
			[]file{{name: a + "/etc/hosts", content: strings.Repeat("x", maxEtcBytes+1)}, {name: b + "/etc/hosts"}}, ""},
		{"several with little in them",
			[]file{{name: a + "/etc/passwd", content: comments}, {name: b + "/etc/passwd", content: comments}}, ""},
		{"several together",
			[]file{
				{name: a + "/etc/passwd", content: "a:x:1:1:" + strings.Repeat("a", maxEtcBytes-100) + "::\n"},
				{name: b + "/etc/passwd", content: "b:x:1:1:" + strings.Repeat("b", maxEtcBytes-100) + "::\n"},
			}, "etc/passwd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := makeStore(t, append(test.files, file{name: a + "/"}, file{name: b + "/"})...)
			_, err := Merge(t.Context(), []Package{one("a", 5, a), one("b", 4, b)}, closure, NewStoreFiles(root))
			unfit := (*layer.UnfitError)(nil)
			if errors.As(err, &unfit) != (test.path != "") || err != nil && unfit.Path != test.path {
				t.Errorf("the error is %v, want one about %q", err, test.path)
			}
		})
	}
}

func TestVarEmpty(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []file
		want  string
	}{
		{"nothing in it", []file{{name: a + "/var/empty/"}}, "var/empty/ 0555"},
		{"something in it, which unpackers must be able to write", []file{{name: a + "/var/empty/x"}}, "var/empty/ 0755"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := list(t, merged(t, makeStore(t, test.files...), one("a", 5, a)))
			if !slices.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestKept(t *testing.T) {
	for name, want := range map[string]bool{
		"": true, "etc/passwd": true, "share/factory/etc/nsswitch.conf": true, propagatedFile: true, neededFile: true,
		"passwd":    false,
		"etc/fstab": false, "etc": false, "etc/passwd/x": false, "bin/hosts": false, "nix-support/etc": false,
	} {
		if got := Kept(name); got != want {
			t.Errorf("%q: got %t, want %t", name, got, want)
		}
	}
}
