package weighted

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// overhead is the memory of an entry besides its own bytes: a key, and its places in a map and a
// list.
const overhead = 200

// A Cache keeps the values that were used last. It is safe for concurrent use.
type Cache[K comparable, V any] struct {
	maxBytes int

	mu    sync.Mutex
	kept  *simplelru.LRU[K, entry[V]]
	bytes int // of all entries
}

type entry[V any] struct {
	value V
	bytes int
}

// New makes a Cache of at most so many bytes. Each entry counts 200 bytes more than its value.
func New[K comparable, V any](maxBytes int) *Cache[K, V] {
	c := &Cache[K, V]{maxBytes: maxBytes}
	evicted := func(_ K, e entry[V]) { c.bytes -= e.bytes }
	var err error
	if c.kept, err = simplelru.NewLRU(maxBytes/overhead+1, evicted); err != nil {
		panic(err) // only a negative constant
	}
	return c
}

// Add keeps a value of so many bytes, in place of the one that the key had. The values that were
// not used for longest make room for it. A value that is larger than the Cache is not kept.
func (c *Cache[K, V]) Add(key K, value V, bytes int) {
	bytes += overhead
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Remove(key)
	if bytes > c.maxBytes {
		return
	}
	c.bytes += bytes
	c.kept.Add(key, entry[V]{value, bytes})
	for c.bytes > c.maxBytes {
		c.kept.RemoveOldest()
	}
}

// Get returns the value of a key. That is a use of it.
func (c *Cache[K, V]) Get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.kept.Get(key)
	return e.value, ok
}

// Contains reports whether the key has a value. That is no use of it.
func (c *Cache[K, V]) Contains(key K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept.Contains(key)
}

// Remove removes the value of a key, if there is one.
func (c *Cache[K, V]) Remove(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Remove(key)
}

// Bytes returns the bytes that all entries count.
func (c *Cache[K, V]) Bytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
