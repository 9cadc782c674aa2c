package imagestore

import (
	"context"
	"errors"
	"path"
	"slices"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// A state is a records.State in the registry's storage, where replicas share it.
type state struct{ driver driver.StorageDriver }

func (s state) Get(ctx context.Context, key string) ([]byte, error) {
	record, err := s.driver.GetContent(ctx, paths.State+key)
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil, records.ErrNotFound
	}
	return record, err
}

// Put replaces the record: drivers write content whole or not at all.
func (s state) Put(ctx context.Context, key string, record []byte) error {
	return s.driver.PutContent(ctx, paths.State+key, record)
}

// Delete does nothing if there is no such record.
func (s state) Delete(ctx context.Context, key string) error {
	err := s.driver.Delete(ctx, paths.State+key)
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil
	}
	return err
}

// Written implements records.Dated.
func (s state) Written(ctx context.Context, key string) (time.Time, error) {
	info, err := s.driver.Stat(ctx, paths.State+key)
	if errors.As(err, new(driver.PathNotFoundError)) {
		return time.Time{}, records.ErrNotFound
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (s state) List(ctx context.Context, prefix string) ([]string, error) {
	paths, err := s.driver.List(ctx, paths.State+prefix)
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(paths))
	for _, p := range paths {
		if path.Ext(p) != ".tmp" { // the filesystem driver's unfinished writes
			names = append(names, path.Base(p))
		}
	}
	slices.Sort(names)
	return names, nil
}
