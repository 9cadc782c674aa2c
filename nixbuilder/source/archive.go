package source

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
)

// archiveLimits bound what an archive may hold, by several times what nixpkgs has.
type archiveLimits struct {
	bytes int64 // uncompressed
	files int   // and directories
}

// These limit names and paths below the tree: Linux's limit for a name, and less than Linux's for a
// path, since the tree has a path too.
const (
	maxNameBytes = 255
	maxPathBytes = 2048
)

// An ArchiveError means that a revision's archive can't be unpacked: it is no archive, or holds
// what no tree may have. Fetching it again would not help.
type ArchiveError struct {
	Revision string
	Reason   string // without paths of the host
}

func (e *ArchiveError) Error() string {
	return fmt.Sprintf("the archive of the package set at %s can't be unpacked: %s", e.Revision, e.Reason)
}

// A fault is something in an archive that no tree may have.
type fault string

func (f fault) Error() string { return string(f) }

const errTooLarge = fault("it is too large")

// isFault tells whether an error of unpack is the archive's fault. An archive that was cut off may
// be whole the next time.
func isFault(err error) bool {
	var own fault
	var corrupt flate.CorruptInputError
	return errors.As(err, &own) || errors.As(err, &corrupt) ||
		errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, tar.ErrHeader)
}

// These bound what is in flight between decompressing an archive and writing its files.
const (
	blockBytes  = 256 << 10
	blocksAhead = 8
	filesAhead  = 16
)

// An unpacking puts the files of an archive into a draft, without the one directory that holds them
// all. It does not trust the archive: nothing is written outside the tree, no link leads out of it,
// and there are limits.
type unpacking struct {
	draft *draft
	known []file // sorted by path; their contents are stored already
	limit archiveLimits

	files []*file
	kinds map[string]fs.FileMode // of what is in the tree, by path
	date  time.Time              // of the youngest file
}

// unpack reads a .tar.gz to its end. It returns the files, sorted by path, and the time of the
// youngest. Decompressing, reading and writing run at the same time.
func (u *unpacking) unpack(ctx context.Context, compressed io.Reader) ([]file, time.Time, error) {
	uncompressed, err := gzip.NewReader(compressed)
	if err != nil {
		return nil, time.Time{}, err
	}
	blocks := newReadAhead(&limited{uncompressed, u.limit.bytes + int64(u.limit.files)*1024})
	defer blocks.stop()
	u.kinds = map[string]fs.FileMode{".": fs.ModeDir}
	writers, ctx := errgroup.WithContext(ctx)
	writers.SetLimit(filesAhead)
	running := limit.NewSlots(runtime.GOMAXPROCS(0))
	reader := tar.NewReader(blocks)
	err = u.entries(ctx, reader, func(work func() error) {
		writers.Go(func() error {
			release, err := running.Acquire(ctx)
			if err != nil {
				return err
			}
			defer release()
			return work()
		})
	})
	if err == nil {
		_, err = io.Copy(io.Discard, blocks) // the checksum is at the end
	}
	// An error of the writers is the cause of what the reader says after it.
	if writeErr := writers.Wait(); writeErr != nil {
		err = writeErr
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	files := make([]file, 0, len(u.files))
	for _, f := range u.files {
		files = append(files, *f)
	}
	sortFiles(files)
	return files, u.date, nil
}

// entries reads an archive, and calls write with the work for each file.
func (u *unpacking) entries(ctx context.Context, reader *tar.Reader, write func(work func() error)) error {
	left := u.limit.bytes
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if left -= entry.Size; left < 0 {
			return fmt.Errorf("%w: it has more than %d bytes", errTooLarge, u.limit.bytes)
		}
		if entry.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		_, name, ok := strings.Cut(path.Clean(entry.Name), "/")
		if !ok {
			continue // the one directory
		}
		if entry.ModTime.After(u.date) {
			u.date = entry.ModTime
		}
		if err := u.entry(name, entry, reader, write); err != nil {
			return fmt.Errorf("unpacking %.200q: %w", name, err)
		}
	}
}

func (u *unpacking) entry(name string, entry *tar.Header, content io.Reader, write func(work func() error)) error {
	if !filepath.IsLocal(name) {
		return fault("its path escapes from the archive")
	}
	tooLong := func(part string) bool { return len(part) > maxNameBytes }
	if len(name) > maxPathBytes || slices.ContainsFunc(strings.Split(name, "/"), tooLong) {
		return fault("its name is too long")
	}
	if entry.Typeflag == tar.TypeDir {
		return u.directory(name)
	}
	if err := u.directory(path.Dir(name)); err != nil {
		return err
	}
	f, err := u.add(name, kindOf(entry))
	if err != nil {
		return err
	}
	switch entry.Typeflag {
	case tar.TypeSymlink:
		if path.IsAbs(entry.Linkname) || !filepath.IsLocal(path.Join(path.Dir(name), entry.Linkname)) {
			return fault(fmt.Sprintf("it is a link to %.200q, out of the archive", entry.Linkname))
		}
		if entry.Linkname == "" || len(entry.Linkname) > maxPathBytes {
			return fault("it is a link to nothing, or to too long a name")
		}
		write(func() error { return u.draft.r.contents.symlink(entry.Linkname, u.draft.spot(name), f) })
		return nil
	case tar.TypeReg:
		if entry.Size > blockBytes {
			added, err := u.draft.r.contents.stream(content, nil, u.draft.spot(name), f)
			u.draft.count(added)
			return err
		}
		small := make([]byte, entry.Size)
		if _, err := io.ReadFull(content, small); err != nil {
			return err
		}
		write(func() error {
			if u.isKnown(small, f) {
				return nil
			}
			added, err := u.draft.r.contents.write(small, nil, u.draft.spot(name), f)
			u.draft.count(added)
			return err
		})
		return nil
	}
	return fault("it is neither a file, a directory nor a symlink")
}

// kindOf returns as much of a file's mode as a tree keeps.
func kindOf(entry *tar.Header) fs.FileMode {
	switch {
	case entry.Typeflag == tar.TypeSymlink:
		return fs.ModeSymlink
	case entry.Mode&0o111 != 0:
		return 0o111
	}
	return 0
}

// directory makes a directory and those above it, each once.
func (u *unpacking) directory(name string) error {
	kind, ok := u.kinds[name]
	if ok && !kind.IsDir() {
		return fault(fmt.Sprintf("its path escapes from the archive, or is there twice: %.200q is no directory", name))
	}
	if ok {
		return nil
	}
	if err := u.directory(path.Dir(name)); err != nil {
		return err
	}
	if _, err := u.add(name, fs.ModeDir); err != nil {
		return err
	}
	return u.draft.mkdir(name)
}

func (u *unpacking) add(name string, kind fs.FileMode) (*file, error) {
	if _, ok := u.kinds[name]; ok {
		return nil, fault("it is there twice")
	}
	if len(u.files) >= u.limit.files {
		return nil, fmt.Errorf("%w: it has more than %d files", errTooLarge, u.limit.files)
	}
	u.kinds[name] = kind
	f := &file{Rel: name, Status: status{Mode: kind}}
	u.files = append(u.files, f)
	return f, nil
}

// limited fails with errTooLarge once more than a number of bytes was read.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// isKnown sets f's hash to that of a content. It tells whether the known file of that path has the
// same content.
func (u *unpacking) isKnown(content []byte, f *file) bool {
	f.hash = sha256.Sum256(content)
	byPath := func(known file, rel string) int { return strings.Compare(known.Rel, rel) }
	at, ok := slices.BinarySearchFunc(u.known, f.Rel, byPath)
	return ok && sameContent(u.known[at], *f)
}

// A readAhead reads in a goroutine of its own, some blocks ahead of its reader.
type readAhead struct {
	blocks  chan block
	stopped chan struct{}
	rest    block
}

type block struct {
	bytes []byte
	err   error // after them
}

// newReadAhead begins to read from r, until that ends or stop is called.
func newReadAhead(r io.Reader) *readAhead {
	a := &readAhead{blocks: make(chan block, blocksAhead), stopped: make(chan struct{})}
	go func() {
		defer close(a.blocks)
		for err := error(nil); err == nil; {
			buffer, n := make([]byte, blockBytes), 0
			for n < len(buffer) && err == nil {
				var more int
				more, err = r.Read(buffer[n:])
				n += more
			}
			select {
			case a.blocks <- block{buffer[:n], err}:
			case <-a.stopped:
				return
			}
		}
	}()
	return a
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.rest.bytes) == 0 {
		if a.rest.err != nil {
			return 0, a.rest.err
		}
		a.rest = <-a.blocks
	}
	n := copy(p, a.rest.bytes)
	a.rest.bytes = a.rest.bytes[n:]
	return n, nil
}

// stop ends the reading. It returns when nothing reads from r any more.
func (a *readAhead) stop() {
	close(a.stopped)
	for range a.blocks { // until it is closed
	}
}
