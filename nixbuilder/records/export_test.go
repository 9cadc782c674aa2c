package records

// Seal is for tests of what is damaged.
var Seal = seal

// Path is where a record is in the State.
func (t *Table[V]) Path(key string) string { return t.path(key) }

// CachedBytes is how much is in memory.
func (t *Table[V]) CachedBytes() int { return t.cache.Bytes() }
