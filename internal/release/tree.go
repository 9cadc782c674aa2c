package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// tree writes a file system into a tar, as a layer. Paths have no first slash. Each path is written
// once; a directory may be added again, and stays as it was. After an error, calls do nothing, and
// err has it.
type tree struct {
	w     *tar.Writer
	made  time.Time       // the time of what no package brings
	kinds map[string]byte // the type of each entry
	kept  map[string][]byte
	err   error
}

func newTree(w io.Writer, made time.Time) *tree {
	return &tree{w: tar.NewWriter(w), made: made, kinds: make(map[string]byte), kept: make(map[string][]byte)}
}

// add writes an entry, with its name and owner made plain. It keeps the content of files that keep
// names.
func (t *tree) add(header *tar.Header, content io.Reader) {
	if t.err != nil {
		return
	}
	name := plain(header.Name)
	if name == "" {
		return // the root
	}
	if kind, there := t.kinds[name]; there {
		if kind != tar.TypeDir || header.Typeflag != tar.TypeDir {
			t.err = fmt.Errorf("/%s is there twice", name)
		}
		return
	}
	t.kinds[name] = header.Typeflag
	entry := tar.Header{
		Typeflag: header.Typeflag, Name: name, Linkname: header.Linkname, Size: header.Size,
		Mode: header.Mode & 0o7777, Uid: header.Uid, Gid: header.Gid, ModTime: header.ModTime.Truncate(time.Second),
	}
	switch header.Typeflag {
	case tar.TypeDir:
		entry.Name += "/"
	case tar.TypeLink:
		entry.Linkname = plain(header.Linkname)
	}
	if header.Typeflag == tar.TypeReg && keep(name) {
		var buffer bytes.Buffer
		content = io.TeeReader(content, &buffer)
		defer func() { t.kept[name] = buffer.Bytes() }()
	}
	if t.err = t.w.WriteHeader(&entry); t.err == nil && header.Typeflag == tar.TypeReg {
		_, t.err = io.Copy(t.w, content)
	}
	if t.err != nil {
		t.err = fmt.Errorf("writing /%s: %w", name, t.err)
	}
}

// plain is a path from the root without first and last slashes. Directories that Debian has moved
// below /usr are taken from there.
func plain(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, below := strings.Cut(name, "/")
	switch {
	case !below:
	case first == "bin", first == "sbin", first == "lib", first == "lib64":
		return "usr/" + name
	case strings.HasPrefix(name, "var/run/"):
		return strings.TrimPrefix(name, "var/")
	}
	return name
}

// file writes a file of root's.
func (t *tree) file(name string, mode int64, gid int, content string) {
	t.add(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: mode, Gid: gid, Size: int64(len(content)), ModTime: t.made,
	}, strings.NewReader(content))
}

// ownedFile writes a file of the registry's user.
func (t *tree) ownedFile(name, content string) {
	t.add(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Uid: uidRegistry, Gid: uidRegistry,
		Size: int64(len(content)), ModTime: t.made,
	}, strings.NewReader(content))
}

// content is that of a file that is kept.
func (t *tree) content(name string) string {
	content, there := t.kept[name]
	if !there && t.err == nil {
		t.err = fmt.Errorf("no package has brought /%s", name)
	}
	return string(content)
}

// keptBelow are the names of the files that are kept in a directory and below, sorted.
func (t *tree) keptBelow(directory string) []string {
	var names []string
	for name := range t.kept {
		if strings.HasPrefix(name, directory) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// link writes a symbolic link.
func (t *tree) link(name, target string) {
	t.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: t.made}, nil)
}

// directory writes a directory, whose parents are there.
func (t *tree) directory(name string, mode int64, uid, gid int) {
	t.add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: uid, Gid: gid, ModTime: t.made}, nil)
}

// addCopy writes a file of root's with the content of one of this machine.
func (t *tree) addCopy(name, file string, mode int64) (err error) {
	source, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size(), ModTime: t.made}, source)
	return t.err
}

// close ends the tar.
func (t *tree) close() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Close()
}
