package records

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// A Table keeps values of one kind in a State, as JSON behind a checksum, the most used also in
// memory. It is safe for concurrent use.
type Table[V any] struct {
	state State
	kind  string
	cache *weighted.Cache[string, V]
}

// NewTable keeps records below the key kind, up to so many bytes of them in memory, as
// weighted.Cache counts: a record is as large as its JSON.
func NewTable[V any](state State, kind string, cachedBytes int) *Table[V] {
	return &Table[V]{state: state, kind: kind, cache: weighted.New[string, V](cachedBytes)}
}

// Get returns false if there is no such record. One that is not as it was put counts as none, with
// a warning: it will be written anew.
func (t *Table[V]) Get(ctx context.Context, key string) (value V, ok bool, err error) {
	if value, ok = t.cache.Get(key); ok {
		return value, true, nil
	}
	value, bytes, err := t.read(ctx, key)
	if bytes == 0 || err != nil {
		return value, false, err
	}
	t.cache.Add(key, value, bytes)
	return value, true, nil
}

// Fresh is Get of what is in the State now, which another replica may have changed. It leaves what is
// in memory as it is: whoever goes through all records must not drive out those that pulls use.
func (t *Table[V]) Fresh(ctx context.Context, key string) (value V, ok bool, err error) {
	value, bytes, err := t.read(ctx, key)
	return value, bytes > 0 && err == nil, err
}

// read returns a record that is in the State, and how large it is: 0 bytes for none.
func (t *Table[V]) read(ctx context.Context, key string) (value V, bytes int, err error) {
	record, err := t.state.Get(ctx, t.path(key))
	if errors.Is(err, ErrNotFound) {
		return value, 0, nil
	}
	if err != nil {
		return value, 0, fmt.Errorf("reading record %s: %w", t.path(key), err)
	}
	if value, err = unseal[V](record); err != nil {
		logrus.WithError(err).Warnf("nix: record %s is damaged and will be written again", t.path(key))
		return value, 0, nil
	}
	return value, len(record), nil
}

// AtOnce is how many records of an image the State is asked for at a time.
const AtOnce = 16

// GetAll is Get for several keys, whose records are read side by side. Those that there are not are
// not in the map.
func (t *Table[V]) GetAll(ctx context.Context, keys []string) (map[string]V, error) {
	found := make(map[string]V, len(keys))
	var mu sync.Mutex // guards found
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(AtOnce)
	for _, key := range keys {
		all.Go(func() error {
			value, ok, err := t.Get(ctx, key)
			if ok {
				mu.Lock()
				defer mu.Unlock()
				found[key] = value
			}
			return err
		})
	}
	return found, all.Wait()
}

// PutAll is Put for several records, which are written side by side.
func (t *Table[V]) PutAll(ctx context.Context, values map[string]V) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(AtOnce)
	for key, value := range values {
		all.Go(func() error { return t.Put(ctx, key, value) })
	}
	return all.Wait()
}

// Cached tells whether a record is in memory.
func (t *Table[V]) Cached(key string) bool { return t.cache.Contains(key) }

// Recall puts a record that was learned elsewhere into memory alone.
func (t *Table[V]) Recall(key string, value V) {
	if t.cache.Contains(key) {
		return
	}
	if record, err := seal(value); err == nil {
		t.cache.Add(key, value, len(record))
	}
}

// Put replaces the record.
func (t *Table[V]) Put(ctx context.Context, key string, value V) error {
	record, err := seal(value)
	if err != nil {
		return err
	}
	if err := t.state.Put(ctx, t.path(key), record); err != nil {
		return fmt.Errorf("writing record %s: %w", t.path(key), err)
	}
	t.cache.Add(key, value, len(record))
	return nil
}

// Ensure puts a record again that was put a moment ago, if somebody has deleted it meanwhile.
func (t *Table[V]) Ensure(ctx context.Context, key string, value V) error {
	if _, ok, err := t.Fresh(ctx, key); ok || err != nil {
		return err
	}
	return t.Put(ctx, key, value)
}

// Delete removes the record, if there is one.
func (t *Table[V]) Delete(ctx context.Context, key string) error {
	t.cache.Remove(key)
	if err := t.state.Delete(ctx, t.path(key)); err != nil {
		return fmt.Errorf("deleting record %s: %w", t.path(key), err)
	}
	return nil
}

// path spreads the records over 256 directories: object stores and file systems alike slow down in
// large ones.
func (t *Table[V]) path(key string) string { return t.kind + "/" + key[:2] + "/" + key }

// seal writes a value behind a checksum: damaged JSON may still be JSON, and of another meaning.
func seal(value any) ([]byte, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%x\n%s", sha256.Sum256(content), content), nil
}

// unseal reads what seal wrote.
func unseal[V any](record []byte) (value V, err error) {
	sum, content, _ := strings.Cut(string(record), "\n")
	if sum != fmt.Sprintf("%x", sha256.Sum256([]byte(content))) {
		return value, errors.New("its checksum is another")
	}
	err = json.Unmarshal([]byte(content), &value)
	return value, err
}
