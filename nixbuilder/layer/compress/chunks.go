package compress

import (
	"crypto/sha256"
	"hash/maphash"

	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

// What is kept in memory.
const (
	// chunkCacheBytes bounds the compressed chunks, some thirty root directories of hundreds of
	// packages.
	chunkCacheBytes = 8 << 20
	// sectionCacheBytes bounds what is known of sections: each takes some 300 bytes, and 16 for
	// each of its chunks.
	sectionCacheBytes = 1 << 20
	hashStateBytes    = 108 // of SHA-256
)

// chunkCache keeps the compressed chunks that were used last, and remembers of which chunks a
// section consists. It is safe for concurrent use.
type chunkCache struct {
	seeds    [2]maphash.Seed
	chunks   *weighted.Cache[chunkKey, []byte] // not changed any more
	sections *weighted.Cache[sectionKey, knownSection]
}

// chunkKey consists of two hashes of a chunk. Nobody knows their seeds, so nobody can make a chunk
// that looks like another.
type chunkKey [2]uint64

// sectionKey is a hash of the keys of a section and of all those before it.
type sectionKey [sha256.Size]byte

func sectionKeys(sections []Section) []sectionKey {
	keys := make([]sectionKey, len(sections))
	var key sectionKey
	for i, s := range sections {
		key = sha256.Sum256(append(key[:], s.Key...))
		keys[i] = key
	}
	return keys
}

// knownSection is a section that was written before, after the same ones.
type knownSection struct {
	chunks []chunkKey
	hashed []byte // the state of the archive's hash after it
}

func newChunkCache() *chunkCache {
	return &chunkCache{
		seeds:    [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		chunks:   weighted.New[chunkKey, []byte](chunkCacheBytes),
		sections: weighted.New[sectionKey, knownSection](sectionCacheBytes),
	}
}

// prefix is the beginning of an archive, as far as it is known.
type prefix struct {
	sections   int
	compressed [][]byte // chunks
	hashed     []byte   // the state of the archive's hash after it
}

// prefix returns the sections that are known, up to the first one that is not.
func (c *chunkCache) prefix(keys []sectionKey) (known prefix) {
	for _, key := range keys {
		section, ok := c.sections.Get(key)
		if !ok {
			return known
		}
		compressed := known.compressed
		for _, key := range section.chunks {
			chunk, ok := c.chunks.Get(key)
			if !ok {
				return known
			}
			compressed = append(compressed, chunk)
		}
		known = prefix{known.sections + 1, compressed, section.hashed}
	}
	return known
}

func (c *chunkCache) addSection(key sectionKey, s knownSection) {
	c.sections.Add(key, s, hashStateBytes+len(s.chunks)*len(chunkKey{})*8)
}

func (c *chunkCache) key(chunk []byte) chunkKey {
	return chunkKey{maphash.Bytes(c.seeds[0], chunk), maphash.Bytes(c.seeds[1], chunk)}
}
