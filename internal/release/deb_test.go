package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// archived is a tar of files with some content, and of directories where a name ends with a slash.
func archived(t *testing.T, files ...string) string {
	t.Helper()
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for number := 0; number < len(files); number += 2 {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: files[number], Mode: 0o644}
		header.Size = int64(len(files[number+1]))
		if strings.HasSuffix(files[number], "/") {
			header.Typeflag, header.Mode = tar.TypeDir, 0o755
		}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, files[number+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.String()
}

// packed is a package of members, by name and content.
func packed(members ...string) string {
	made := "!<arch>\n"
	for number := 0; number < len(members); number += 2 {
		name, content := members[number], members[number+1]
		made += fmt.Sprintf("%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name, 0, 0, 0, 0o100644, len(content), content)
		if len(content)%2 == 1 {
			made += "\n"
		}
	}
	return made
}

// TestUnpack unpacks a package, and makes dpkg's paragraph of it.
func TestUnpack(t *testing.T) {
	t.Parallel()
	control := archived(
		t, "./control", "Package: odd\nVersion: 1\nMulti-Arch: same\nDescription: odd\n and even\n",
		"./conffiles", "/etc/odd\nremove-on-upgrade /etc/gone\n", "./triggers", "interest-noawait /usr/lib\ninterest odd\n",
	)
	data := archived(
		t, "./", "", "./etc/", "", "./etc/odd", "a", "./bin/odd", "program", "./usr/share/doc/odd/copyright", "free",
		"./usr/share/doc/odd/news", "new",
	)
	content := packed("debian-binary", "2.0", "control.tar", control, "data.tar", data)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, sum), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := openDeb(dir, lockedPackage{name: "odd", version: "1", sha256: sum})
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	files := newTree(&layer, time.Unix(0, 0))
	listed, err := unpack(files, d)
	if err != nil {
		t.Fatal(err)
	}
	database := &dpkgDatabase{architecture: "amd64"}
	database.add(d, listed)
	database.write(files)
	if err := files.close(); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for archive := tar.NewReader(&layer); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(text)
	}
	for name, want := range map[string]string{
		"etc/odd": "a", "usr/bin/odd": "program", "usr/share/doc/odd/copyright": "free",
		"var/lib/dpkg/status": "Package: odd\nStatus: install ok installed\nVersion: 1\nMulti-Arch: same\n" +
			"Conffiles:\n /etc/odd 0cc175b9c0f1b6a831c399e269772661\nDescription: odd\n and even\n\n",
		"var/lib/dpkg/info/odd:amd64.list": "/.\n/etc\n/etc/odd\n/bin/odd\n/usr/share/doc/odd/copyright\n/usr/share/doc/odd/news\n",
		"var/lib/dpkg/triggers/File":       "/usr/lib odd/noawait\n",
		"var/lib/dpkg/triggers/odd":        "odd\n",
	} {
		if got[name] != want {
			t.Errorf("/%s has %q, want %q", name, got[name], want)
		}
	}
	if _, there := got["usr/share/doc/odd/news"]; there {
		t.Error("a document is in the image")
	}
}

func TestOpenDebFaults(t *testing.T) {
	t.Parallel()
	whole := packed("control.tar", archived(t, "./control", "Package: odd\n"), "data.tar", archived(t))
	for _, test := range []struct{ name, content, want string }{
		{"no archive", "something else", "no archive"},
		{"cut off", whole[:len(whole)-512], "cut off"},
		{"damaged", strings.Replace(whole, "`\n", "x\n", 1), "damaged"},
		{"without data", packed("control.tar", archived(t, "./control", "Package: odd\n")), "no control or no data"},
		{"of an unknown kind", packed("data.tar.rar", "x"), "unknown compression"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, sum := t.TempDir(), fmt.Sprintf("%x", sha256.Sum256([]byte(test.content)))
			if err := os.WriteFile(filepath.Join(dir, sum), []byte(test.content), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := openDeb(dir, lockedPackage{"odd", "1", sum})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("opening it: %v, want %q", err, test.want)
			}
			other := strings.Repeat("0", 64)
			if err := os.Rename(filepath.Join(dir, sum), filepath.Join(dir, other)); err != nil {
				t.Fatal(err)
			}
			_, err = openDeb(dir, lockedPackage{"odd", "1", other})
			if err == nil || !strings.Contains(err.Error(), "SHA-256") {
				t.Errorf("opening another file than the lock file's: %v", err)
			}
		})
	}
}

func TestTreeFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		write func(*tree)
		want  string
	}{
		{"twice", func(t *tree) {
			t.file("etc/odd", 0o644, 0, "")
			t.file("etc/odd", 0o644, 0, "")
		}, "/etc/odd is there twice"},
		{"by two paths", func(t *tree) {
			t.file("bin/odd", 0o644, 0, "")
			t.link("usr/bin/odd", "x")
		}, "/usr/bin/odd is there twice"},
		{"made of nothing", makeFiles, "no package has brought /usr/share/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := newTree(io.Discard, time.Unix(0, 0))
			test.write(files)
			if err := files.close(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("closing it: %v, want %q", err, test.want)
			}
		})
	}
}
