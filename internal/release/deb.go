package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// deb is a binary package of Debian, opened.
type deb struct {
	lockedPackage
	control map[string][]byte // the files of its control archive, by name
	data    io.Reader         // its file system, a tar
}

// openDeb opens the package in dir. It fails if the file is not the one of the lock file.
func openDeb(dir string, locked lockedPackage) (*deb, error) {
	content, err := os.ReadFile(filepath.Join(dir, locked.sha256))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != locked.sha256 {
		return nil, fmt.Errorf("%s %s: the file has SHA-256 %x, and the lock file %s",
			locked.name, locked.version, sum, locked.sha256)
	}
	d := &deb{lockedPackage: locked}
	if err := d.open(content); err != nil {
		return nil, fmt.Errorf("opening %s %s: %w", locked.name, locked.version, err)
	}
	return d, nil
}

func (d *deb) open(content []byte) error {
	members, err := readAr(content)
	if err != nil {
		return err
	}
	for name, member := range members {
		kind, compression, _ := strings.Cut(name, ".tar")
		if kind != "control" && kind != "data" {
			continue
		}
		archive, err := decompress(compression, member)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if kind == "data" {
			d.data = archive
		} else if d.control, err = readControl(archive); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if d.data == nil || d.control["control"] == nil {
		return errors.New("it has no control or no data")
	}
	return nil
}

// readAr reads an archive of the form of ar(5): 60 bytes for each member that have its name, at 48
// its size, and in the end "`\n". Members begin at even places.
func readAr(content []byte) (map[string][]byte, error) {
	const magic, headerBytes, sizeAt, endAt = "!<arch>\n", 60, 48, 58
	rest, found := bytes.CutPrefix(content, []byte(magic))
	if !found {
		return nil, errors.New("no archive of the form of ar")
	}
	members := make(map[string][]byte)
	for len(rest) > 0 {
		if len(rest) < headerBytes || string(rest[endAt:headerBytes]) != "`\n" {
			return nil, errors.New("a damaged archive of the form of ar")
		}
		name := strings.TrimRight(string(rest[:16]), " /")
		size, err := strconv.ParseUint(strings.TrimSpace(string(rest[sizeAt:endAt])), 10, 31)
		if err != nil {
			return nil, fmt.Errorf("the size of %s: %w", name, err)
		}
		rest = rest[headerBytes:]
		if size > uint64(len(rest)) {
			return nil, fmt.Errorf("%s is cut off", name)
		}
		members[name] = rest[:size]
		rest = rest[min(size+size%2, uint64(len(rest))):]
	}
	return members, nil
}

// decompress reads what dpkg-deb has compressed; compression is the end of the member's name.
func decompress(compression string, member []byte) (io.Reader, error) {
	source := bytes.NewReader(member)
	switch compression {
	case "":
		return source, nil
	case ".gz":
		return gzip.NewReader(source)
	case ".xz":
		return xz.NewReader(source, 0)
	case ".zst":
		return zstd.NewReader(source, zstd.WithDecoderConcurrency(1))
	}
	return nil, fmt.Errorf("unknown compression %q", compression)
}

func readControl(archive io.Reader) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for entries := tar.NewReader(archive); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		} else if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if files[path.Clean(header.Name)], err = io.ReadAll(entries); err != nil {
			return nil, err
		}
	}
}

// field is the value of a field of the package's control file that takes one line, or empty.
func (d *deb) field(name string) string {
	for line := range strings.Lines(string(d.control["control"])) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// conffiles are the package's files that belong to the administrator, without the first slash.
func (d *deb) conffiles() []string {
	var files []string
	for line := range strings.Lines(string(d.control["conffiles"])) {
		if file := strings.TrimSpace(line); strings.HasPrefix(file, "/") {
			files = append(files, file[1:])
		}
	}
	slices.Sort(files)
	return files
}
