package collection_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/nixery-registry/nixery-registry/middleware/collection"
)

// agingFiles are a storage in which some files are older than they are.
type agingFiles struct {
	driver.StorageDriver
	mu  sync.Mutex
	old map[string]bool
}

// age makes all files old that there are.
func (f *agingFiles) age(t *testing.T) {
	t.Helper()
	err := f.Walk(t.Context(), "/", func(info driver.FileInfo) error {
		f.old[info.Path()] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *agingFiles) touch(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.old, name)
}

func (f *agingFiles) PutContent(ctx context.Context, name string, content []byte) error {
	f.touch(name)
	return f.StorageDriver.PutContent(ctx, name, content)
}

type oldFile struct{ driver.FileInfo }

func (f oldFile) ModTime() time.Time { return f.FileInfo.ModTime().Add(-2 * collection.Youngest) }

func (f *agingFiles) Stat(ctx context.Context, name string) (driver.FileInfo, error) {
	info, err := f.StorageDriver.Stat(ctx, name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.old[name] {
		return oldFile{info}, nil
	}
	return info, err
}

// errDead is of a process that was killed.
var errDead = errors.New("the process is dead")

// watching is the key of a context for calls that are not counted: those of a process beside what it
// does.
type watching struct{}

// steps are the calls that one process makes of the storage.
type steps struct {
	driver.StorageDriver
	mu     sync.Mutex
	calls  int
	before func(call int) error
}

func (s *steps) step(ctx context.Context) error {
	if ctx.Value(watching{}) != nil {
		return nil
	}
	s.mu.Lock()
	s.calls++
	call, before := s.calls, s.before
	s.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(call)
}

// count begins to count anew.
func (s *steps) count(before func(call int) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.before = 0, before
}

func (s *steps) GetContent(ctx context.Context, name string) ([]byte, error) {
	if err := s.step(ctx); err != nil {
		return nil, err
	}
	return s.StorageDriver.GetContent(ctx, name)
}

func (s *steps) PutContent(ctx context.Context, name string, content []byte) error {
	if err := s.step(ctx); err != nil {
		return err
	}
	return s.StorageDriver.PutContent(ctx, name, content)
}

func (s *steps) Stat(ctx context.Context, name string) (driver.FileInfo, error) {
	if err := s.step(ctx); err != nil {
		return nil, err
	}
	return s.StorageDriver.Stat(ctx, name)
}

func (s *steps) List(ctx context.Context, name string) ([]string, error) {
	if err := s.step(ctx); err != nil {
		return nil, err
	}
	return s.StorageDriver.List(ctx, name)
}

func (s *steps) Move(ctx context.Context, from, to string) error {
	if err := s.step(ctx); err != nil {
		return err
	}
	return s.StorageDriver.Move(ctx, from, to)
}

func (s *steps) Delete(ctx context.Context, name string) error {
	if err := s.step(ctx); err != nil {
		return err
	}
	return s.StorageDriver.Delete(ctx, name)
}

func (s *steps) Reader(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	if err := s.step(ctx); err != nil {
		return nil, err
	}
	return s.StorageDriver.Reader(ctx, name, offset)
}

func (s *steps) Walk(
	ctx context.Context, from string, f driver.WalkFn, options ...func(*driver.WalkOptions),
) error {
	return driver.WalkFallback(ctx, s, from, f, options...)
}
