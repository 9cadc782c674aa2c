package source

import (
	"context"
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A file is an entry that a walk found, later with the hash of its content. Fields are exported for
// gob.
type file struct {
	Rel    string // path below the top of the walk
	Status status
	hash   [sha256.Size]byte // SHA-256; of a symlink, that of its target; of a directory, zero
}

func (f file) isDir() bool      { return f.Status.Mode.IsDir() }
func (f file) executable() bool { return f.Status.Mode.IsRegular() && f.Status.Mode&0o111 != 0 }

// sameContent tells whether two files are equal but for their names.
func sameContent(a, b file) bool {
	return a.Status.Mode.Type() == b.Status.Mode.Type() && a.executable() == b.executable() && a.hash == b.hash
}

// A status is all that changes when a file does. Of a directory it is the mode alone, since what it
// holds is walked itself.
type status struct {
	Mode         fs.FileMode // type and permissions
	Size         int64
	Inode        uint64
	Mtime, Ctime syscall.Timespec
}

// statusAt returns the status of a name in an open directory, or of a path if dir is unix.AT_FDCWD.
func statusAt(dir int, name string) (status, error) {
	var stat unix.Stat_t
	if err := unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return status{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	s := status{
		Mode: fs.FileMode(stat.Mode & 0o777), Size: stat.Size, Inode: stat.Ino,
		Mtime: syscall.Timespec(stat.Mtim), Ctime: syscall.Timespec(stat.Ctim),
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return status{Mode: fs.ModeDir}, nil
	case unix.S_IFREG:
	case unix.S_IFLNK:
		s.Mode |= fs.ModeSymlink
	default:
		s.Mode |= fs.ModeIrregular
	}
	return s, nil
}

// walk lists everything below the directory top but a .git at the top, sorted by path. If w is not
// nil, it watches all directories. Several threads do it: a set like nixpkgs has 100,000 files and
// more, each of which takes a system call.
func walk(ctx context.Context, top string, w *watch) (files []file, err error) {
	var mu sync.Mutex // guards files
	threads, ctx := errgroup.WithContext(ctx)
	threads.SetLimit(runtime.GOMAXPROCS(0))
	var list func(rel string) error
	list = func(rel string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w != nil {
			w.add(filepath.Join(top, rel), rel) // first, so that nothing happens in between
		}
		found, err := listDir(top, rel)
		if err != nil {
			return err
		}
		mu.Lock()
		files = append(files, found...)
		mu.Unlock()
		for _, f := range found {
			below := func() error { return list(f.Rel) }
			if !f.isDir() || threads.TryGo(below) {
				continue
			}
			if err := below(); err != nil {
				return err
			}
		}
		return nil
	}
	threads.Go(func() error { return list(".") })
	err = threads.Wait()
	sortFiles(files)
	return files, err
}

// sortFiles sorts by path, so that a directory comes before what it holds.
func sortFiles(files []file) {
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Rel, b.Rel) })
}

// listDir lists one directory.
func listDir(top, rel string) ([]file, error) {
	dir, err := os.OpenFile(filepath.Join(top, rel), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	files := make([]file, 0, len(entries))
	for _, entry := range entries {
		f := file{Rel: filepath.Join(rel, entry.Name()), Status: status{Mode: fs.ModeDir}}
		if f.Rel == ".git" {
			continue
		}
		if !entry.IsDir() {
			if f.Status, err = statusAt(int(dir.Fd()), entry.Name()); err != nil {
				return nil, err
			}
		}
		files = append(files, f)
	}
	return files, nil
}
