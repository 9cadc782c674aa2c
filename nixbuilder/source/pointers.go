package source

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// pointerBytes is more than a pointer of git LFS has, by its specification.
	pointerBytes = 1024
	// maxPointers is how many pointers of a revision are known.
	maxPointers = 10_000
	// attributesBytes is how much of a file of attributes is looked at.
	attributesBytes = 1 << 20
)

// pointers lists the files of a tree whose content is in git LFS. It reads no files of a tree whose
// .gitattributes do not mention LFS.
func pointers(tree string) (paths []string, err error) {
	uses := false
	err = walkFiles(tree, func(path string, _ fs.DirEntry) error {
		if filepath.Base(path) != ".gitattributes" {
			return nil
		}
		attributes, err := head(path, attributesBytes)
		if uses = uses || bytes.Contains(attributes, []byte("filter=lfs")); uses && err == nil {
			return filepath.SkipAll
		}
		return err
	})
	if !uses || err != nil {
		return nil, err
	}
	err = walkFiles(tree, func(path string, entry fs.DirEntry) error {
		info, err := entry.Info()
		if err != nil || info.Size() >= pointerBytes {
			return err
		}
		content, err := head(path, pointerBytes)
		if err != nil || !bytes.HasPrefix(content, []byte("version https://git-lfs.github.com/spec/")) {
			return err
		}
		path, err = filepath.Rel(tree, path)
		if paths = append(paths, path); len(paths) >= maxPointers && err == nil {
			return filepath.SkipAll
		}
		return err
	})
	return paths, err
}

// walkFiles visits the regular files of a tree.
func walkFiles(tree string, visit func(path string, entry fs.DirEntry) error) error {
	return filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		return visit(path, entry)
	})
}

// head reads the beginning of a file, at most limit bytes.
func head(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
