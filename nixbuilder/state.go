package nixbuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// ErrNoRecord is that a State holds nothing under a key.
var ErrNoRecord = errors.New("no such record")

// A State is what all replicas of a registry share: small records under keys made of lower-case
// letters, digits, dashes and slashes. It is safe for concurrent use. A record is written whole or
// not at all.
type State interface {
	// Get returns ErrNoRecord if there is nothing under the key.
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, record []byte) error
	// List returns the last parts of the keys directly below a prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
}

// Records keeps values of one kind in a State, as JSON behind a checksum, the most used also in
// memory. It is safe for concurrent use.
type Records[V any] struct {
	state State
	kind  string
	cache *weighted.Cache[string, V]
}

// NewRecords keeps records below the key kind, up to so many bytes of them in memory, as
// weighted.Cache counts: a record is as large as its JSON.
func NewRecords[V any](state State, kind string, cachedBytes int) *Records[V] {
	return &Records[V]{state: state, kind: kind, cache: weighted.New[string, V](cachedBytes)}
}

// Key makes the key of a record out of what it depends on: different parts, different keys.
func Key(parts ...string) string {
	text := make([]byte, 0, 512) // which most are shorter than: every pull makes one
	for _, part := range parts {
		text = strconv.AppendInt(text, int64(len(part)), 10)
		text = append(append(text, ':'), part...)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Get returns false if there is no such record. One that is not as it was put counts as none, with
// a warning: it will be written anew.
func (r *Records[V]) Get(ctx context.Context, key string) (value V, ok bool, err error) {
	if value, ok = r.cache.Get(key); ok {
		return value, true, nil
	}
	record, err := r.state.Get(ctx, r.path(key))
	if errors.Is(err, ErrNoRecord) {
		return value, false, nil
	}
	if err != nil {
		return value, false, fmt.Errorf("reading record %s: %w", r.path(key), err)
	}
	if value, err = unseal[V](record); err != nil {
		logrus.WithError(err).Warnf("nix: record %s is damaged and will be written again", r.path(key))
		return value, false, nil
	}
	r.cache.Add(key, value, len(record))
	return value, true, nil
}

// recordsAtOnce is how many records of an image the State is asked for at a time.
const recordsAtOnce = 16

// GetAll is Get for several keys, whose records are read side by side. Those that there are not are
// not in the map.
func (r *Records[V]) GetAll(ctx context.Context, keys []string) (map[string]V, error) {
	found := make(map[string]V, len(keys))
	var mu sync.Mutex // guards found
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(recordsAtOnce)
	for _, key := range keys {
		all.Go(func() error {
			value, ok, err := r.Get(ctx, key)
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
func (r *Records[V]) PutAll(ctx context.Context, values map[string]V) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(recordsAtOnce)
	for key, value := range values {
		all.Go(func() error { return r.Put(ctx, key, value) })
	}
	return all.Wait()
}

// Cached tells whether a record is in memory.
func (r *Records[V]) Cached(key string) bool { return r.cache.Contains(key) }

// Recall puts a record that was learned elsewhere into memory alone.
func (r *Records[V]) Recall(key string, value V) {
	if r.cache.Contains(key) {
		return
	}
	if record, err := seal(value); err == nil {
		r.cache.Add(key, value, len(record))
	}
}

// Put replaces the record.
func (r *Records[V]) Put(ctx context.Context, key string, value V) error {
	record, err := seal(value)
	if err != nil {
		return err
	}
	if err := r.state.Put(ctx, r.path(key), record); err != nil {
		return fmt.Errorf("writing record %s: %w", r.path(key), err)
	}
	r.cache.Add(key, value, len(record))
	return nil
}

// path spreads the records over 256 directories: object stores and file systems alike slow down in
// large ones.
func (r *Records[V]) path(key string) string { return r.kind + "/" + key[:2] + "/" + key }

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
