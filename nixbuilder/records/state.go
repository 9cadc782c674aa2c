package records

import (
	"context"
	"errors"
	"time"
)

// ErrNotFound means that a State holds nothing under a key.
var ErrNotFound = errors.New("no such record")

// A State is what all replicas of a registry share: small records under keys made of lower-case
// letters, digits, dashes and slashes. It is safe for concurrent use. A record is written whole or
// not at all.
type State interface {
	// Get returns ErrNotFound if there is nothing under the key.
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, record []byte) error
	// Delete does nothing if there is nothing under the key.
	Delete(ctx context.Context, key string) error
	// List returns the last parts of the keys directly below a prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
}

// A Dated State knows when each record was put last, by the clock of whatever holds them.
type Dated interface {
	State
	// Written returns ErrNotFound if there is nothing under the key.
	Written(ctx context.Context, key string) (time.Time, error)
}
