package source

import (
	"bufio"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// filesName is the list of a revision's files in its directory. It is always there, unlike the
// tree.
const filesName = "files"

// listed are the files of a revision that this process has listed. They do not change.
type listed struct {
	revision string
	files    []file
}

// list writes what a revision consists of, which may be listed already, and its date, if it has
// one. It fails with errNotListed if another process removes the revision at the same moment.
func (r *revisions) list(revision string, files []file, date time.Time) error {
	staging, err := os.MkdirTemp(r.dir, ".new-")
	if err != nil {
		return err
	}
	defer removeAll(staging)
	if err := writeFiles(filepath.Join(staging, filesName), files); err != nil {
		return err
	}
	if err := writeDate(staging, date); err != nil {
		return err
	}
	dir := filepath.Join(r.dir, revision)
	err = errors.Join(
		os.Chmod(staging, 0o755), os.WriteFile(filepath.Join(staging, lockName), nil, 0o644),
		os.Rename(staging, dir),
	)
	if exists(err) {
		err = os.Rename(filepath.Join(staging, filesName), filepath.Join(dir, filesName))
		if errors.Is(err, fs.ErrNotExist) {
			return errNotListed // another process has just removed it
		}
	}
	if err != nil {
		return fmt.Errorf("keeping revision %s: %w", revision, err)
	}
	return nil
}

// A listing is the form in which gob encodes a revision's files. Gob encodes an array of bytes one
// by one, in twice as many bytes, so the hashes are apart.
type listing struct {
	Files  []file
	Hashes []byte // of all files, in order
}

func writeFiles(name string, files []file) error {
	l := listing{Files: files, Hashes: make([]byte, 0, len(files)*sha256.Size)}
	for _, f := range files {
		l.Hashes = append(l.Hashes, f.hash[:]...)
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	buffer := bufio.NewWriterSize(out, 1<<16)
	return errors.Join(gob.NewEncoder(buffer).Encode(l), buffer.Flush(), out.Close())
}

// files returns the files of a revision, sorted by path.
func (r *revisions) files(revision string) ([]file, error) {
	in, err := os.Open(filepath.Join(r.dir, revision, filesName))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if newest := r.newest.Load(); newest != nil && newest.revision == revision {
		return newest.files, nil
	}
	var l listing
	err = gob.NewDecoder(bufio.NewReaderSize(in, 1<<16)).Decode(&l)
	if err == nil && len(l.Hashes) != len(l.Files)*sha256.Size {
		err = fmt.Errorf("reading %s: it is damaged", in.Name())
	}
	if err != nil {
		return nil, err
	}
	for i := range l.Files {
		copy(l.Files[i].hash[:], l.Hashes[i*sha256.Size:])
	}
	return l.Files, nil
}

// newestFiles returns the files of the revision that was asked for last, sorted by path; none if
// there is no revision.
func (r *revisions) newestFiles() []file {
	for _, revision := range r.used() {
		if files, err := r.files(revision); err == nil {
			return files
		}
	}
	return nil
}

// last returns the revision that was listed last, none if it can't be read.
func (r *revisions) last() (revision string, files []file) {
	var latest time.Time
	for _, name := range r.used() {
		if info, err := os.Stat(filepath.Join(r.dir, name, filesName)); err == nil && info.ModTime().After(latest) {
			latest, revision = info.ModTime(), name
		}
	}
	files, err := r.files(revision)
	if err != nil {
		return "", nil
	}
	return revision, files
}

// hashOf is the name of the revision with these files, which are sorted by path.
func hashOf(files []file) string {
	set := sha256.New()
	var line []byte
	for _, f := range files {
		line = strconv.AppendQuote(line[:0], f.Rel)
		line = fmt.Appendf(line, " %v %t %x\n", f.Status.Mode.Type(), f.executable(), f.hash)
		set.Write(line)
	}
	return fmt.Sprintf("%x", set.Sum(nil))
}
