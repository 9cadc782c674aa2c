package rootfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// maxHops is how many symbolic links a name may lead over, as in Linux.
const maxHops = 40

// maxNamesBytes bounds a file in which a package names others.
const maxNamesBytes = 1 << 20

// Files are the files of store paths. Names are relative to the store's directory. No element of a
// name but the last is a symbolic link.
type Files interface {
	// Lstat describes the file of that name. The error is fs.ErrNotExist if there is none.
	Lstat(ctx context.Context, name string) (File, error)
	// ReadDir lists a directory in the order of the names' bytes.
	ReadDir(ctx context.Context, name string) ([]File, error)
	// ReadFile reads a regular file. A file of more than most bytes is a *layer.UnfitError (see
	// TooLarge).
	ReadFile(ctx context.Context, name string, most int64) ([]byte, error)
}

// A File is a file, directory or symbolic link.
type File struct {
	// Name is the file's name in its directory. Only ReadDir sets it.
	Name string
	Type fs.FileMode
	// Target is the target of a symbolic link. Only Lstat sets it.
	Target string
}

// rememberedBytes bounds the listings of directories that StoreFiles remember. A file in them takes
// some 60 bytes.
const rememberedBytes = 5 << 20

// StoreFiles are the files of a Nix store. They remember the listings of the directories that were
// used last, since store paths do not change. They are safe for concurrent use.
type StoreFiles struct {
	name string

	listed *weighted.Cache[string, []File] // not changed any more

	mu     sync.Mutex
	opened *os.Root // nil until first used
}

// NewStoreFiles returns the files of the store below a root directory; empty means "/". The store
// need not exist yet.
func NewStoreFiles(root string) *StoreFiles {
	return &StoreFiles{
		name:   filepath.Join(cmp.Or(root, "/"), store.Dir),
		listed: weighted.New[string, []File](rememberedBytes),
	}
}

func (s *StoreFiles) dir() (*os.Root, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened == nil {
		opened, err := os.OpenRoot(s.name)
		if err != nil {
			return nil, fmt.Errorf("opening the store: %w", err)
		}
		s.opened = opened
	}
	return s.opened, nil
}

func (s *StoreFiles) open(name string) (*os.File, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return dir.Open(name)
}

// Lstat implements Files. It lists the directory that name is in, because other files of it will be
// asked for, too.
func (s *StoreFiles) Lstat(ctx context.Context, name string) (File, error) {
	dir, err := s.dir()
	if err != nil {
		return File{}, err
	}
	file, err := s.find(ctx, dir, name)
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) {
		return File{}, fs.ErrNotExist
	}
	if err == nil && file.Type == fs.ModeSymlink {
		file.Target, err = dir.Readlink(name)
	}
	return file, err
}

func (s *StoreFiles) find(ctx context.Context, dir *os.Root, name string) (File, error) {
	parent, base := path.Split(name)
	if parent == "" { // a store path
		info, err := dir.Lstat(name)
		if err != nil {
			return File{}, err
		}
		return File{Type: info.Mode().Type()}, nil
	}
	files, err := s.ReadDir(ctx, path.Clean(parent))
	if err != nil {
		return File{}, err
	}
	i, found := slices.BinarySearchFunc(files, base, func(f File, name string) int { return cmp.Compare(f.Name, name) })
	if !found {
		return File{}, fs.ErrNotExist
	}
	return File{Type: files[i].Type}, nil
}

// ReadDir implements Files.
func (s *StoreFiles) ReadDir(_ context.Context, name string) ([]File, error) {
	if files, known := s.listed.Get(name); known {
		return files, nil
	}
	files, err := s.list(name)
	if err != nil {
		return nil, err
	}
	const file = 40 // its fields
	bytes := len(name)
	for _, f := range files {
		bytes += file + len(f.Name)
	}
	s.listed.Add(name, files, bytes)
	return files, nil
}

func (s *StoreFiles) list(name string) ([]File, error) {
	f, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	files := make([]File, len(entries))
	for i, entry := range entries {
		files[i] = File{Name: entry.Name(), Type: entry.Type()}
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return files, err
}

// TooLarge returns the error of Files.ReadFile about a file of more than most bytes.
func TooLarge(name string, most int64) error {
	return &layer.UnfitError{Path: store.Dir + "/" + name, Reason: fmt.Sprintf("it is larger than %d bytes", most)}
}

// ReadFile implements Files.
func (s *StoreFiles) ReadFile(_ context.Context, name string, most int64) ([]byte, error) {
	f, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(content)) > most {
		err = TooLarge(name, most)
	}
	return content, err
}

// sources reads the files of packages. Names are absolute. Files outside the closure do not exist
// for it, so a merge depends neither on what else is in the store nor on the rest of the machine.
type sources struct {
	files   Files
	closure map[store.Path]bool
	// directories holds what directory returned. Where links lead in circles, it is called for the
	// same names over and over.
	directories map[string]string
}

// inStore returns name relative to the store's directory. ok is false if it is not in the closure.
func (s sources) inStore(name string) (rel string, ok bool) {
	rel, ok = strings.CutPrefix(name, store.Dir+"/")
	base, _, _ := strings.Cut(rel, "/")
	return rel, ok && s.closure[store.Path(store.Dir+"/"+base)]
}

// lstat returns nil if name does not exist.
func (s sources) lstat(ctx context.Context, name string) (*File, error) {
	rel, ok := s.inStore(name)
	if !ok {
		return nil, nil
	}
	file, err := s.files.Lstat(ctx, rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &file, err
}

// resolve follows all symbolic links in name, also those in its directories. file is nil if they
// lead to no file, in circles or out of the closure.
func (s sources) resolve(ctx context.Context, name string) (real string, file *File, err error) {
	todo := strings.Split(name, "/")
	for hops := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			real = real[:max(0, strings.LastIndexByte(real, '/'))]
			continue
		}
		parent := real
		real += "/" + c
		// A name that does not exist does not end the walk: those of the directories above the
		// closure do not.
		if file, err = s.lstat(ctx, real); err != nil {
			return "", nil, err
		}
		if file == nil || file.Type != fs.ModeSymlink {
			continue
		}
		if hops++; hops > maxHops {
			return "", nil, nil
		}
		if real = parent; strings.HasPrefix(file.Target, "/") {
			real = ""
		}
		todo = append(strings.Split(file.Target, "/"), todo...)
	}
	file, err = s.lstat(ctx, real)
	return real, file, err
}

// directory resolves name. It returns "" if name is no directory.
func (s sources) directory(ctx context.Context, name string) (string, error) {
	if real, known := s.directories[name]; known {
		return real, nil
	}
	real, file, err := s.resolve(ctx, name)
	if err != nil {
		return "", err
	}
	if file == nil || !file.Type.IsDir() {
		real = ""
	}
	s.directories[name] = real
	return real, nil
}

// list returns the content of a directory, whose name must be resolved, in the order of the names'
// bytes.
func (s sources) list(ctx context.Context, name string) ([]File, error) {
	rel, _ := s.inStore(name)
	return s.files.ReadDir(ctx, rel)
}

// Files in which a store path names others: propagatedFile those that are to be installed with it,
// neededFile those that are needed to build with it, such as the modules that a module imports.
const (
	propagatedFile = "nix-support/propagated-user-env-packages"
	neededFile     = "nix-support/propagated-build-inputs"
)

// named returns the store paths of the closure that a file of p names.
func (s sources) named(ctx context.Context, p store.Path, file string) ([]store.Path, error) {
	real, found, err := s.resolve(ctx, string(p)+"/"+file)
	if err != nil || found == nil || !found.Type.IsRegular() {
		return nil, err
	}
	rel, _ := s.inStore(real)
	text, err := s.files.ReadFile(ctx, rel, maxNamesBytes)
	if err != nil {
		return nil, err
	}
	var paths []store.Path
	for _, field := range strings.Fields(string(text)) {
		if p := store.Path(field); s.closure[p] {
			paths = append(paths, p)
		}
	}
	return paths, nil
}
