package weighted

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// overhead is what an entry takes beside its own bytes: a key, its places in a map and a list.
const overhead = 200

// A Cache is safe for concurrent use.
type Cache[K comparable, V any] struct {
	most int

	mu    sync.Mutex
	kept  *simplelru.LRU[K, entry[V]]
	bytes int // of all entries
}

type entry[V any] struct {
	value V
	bytes int
}

// New makes a Cache that takes up to so many bytes, 200 for each entry among them.
func New[K comparable, V any](most int) *Cache[K, V] {
	c := &Cache[K, V]{most: most}
	var err error
	if c.kept, err = simplelru.NewLRU(most/overhead+1, func(_ K, e entry[V]) { c.bytes -= e.bytes }); err != nil {
		panic(err) // only a negative constant
	}
	return c
}

// Add keeps a value of so many bytes, in place of the one that there may be under the key. What was
// not used for longest goes. A value that is larger than all that the Cache takes is not kept.
func (c *Cache[K, V]) Add(key K, value V, bytes int) {
	bytes += overhead
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Remove(key)
	if bytes > c.most {
		return
	}
	c.bytes += bytes
	c.kept.Add(key, entry[V]{value, bytes})
	for c.bytes > c.most {
		c.kept.RemoveOldest()
	}
}

// Get is a use of the value.
func (c *Cache[K, V]) Get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.kept.Get(key)
	return e.value, ok
}

// Contains is no use of the value.
func (c *Cache[K, V]) Contains(key K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept.Contains(key)
}

// Remove is without effect if there is nothing under the key.
func (c *Cache[K, V]) Remove(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Remove(key)
}

// Bytes are how many all entries take.
func (c *Cache[K, V]) Bytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
