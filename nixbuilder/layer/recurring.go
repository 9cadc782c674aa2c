package layer

import (
	"bytes"
	"context"
	"hash/maphash"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Archives that resemble others are cut into parts where the names of their entries say, so that what is added to one changes the part it is in
// and no other. These numbers are part of the format of layers.
const (
	// cutsApart is how many entries a part has on average, if it is not cut for its size.
	cutsApart = 128
	// minRecurringBytes is what a part has before it is cut by name. It has at most a block.
	minRecurringBytes = 16 << 10
)

// recurringBytes bounds the compressed parts in memory, some thirty root directories of hundreds of packages.
const recurringBytes = 8 << 20

// recurringOverhead is, roughly, what a part takes in memory besides its bytes.
const recurringOverhead = 200

// recurring holds the compressed form of parts that may come again, those used last. It is safe for concurrent use.
type recurring struct {
	seeds [2]maphash.Seed

	mu    sync.Mutex
	parts *simplelru.LRU[partKey, []byte] // not changed any more
	bytes int
}

// partKey is of two hashes whose seeds nobody knows: whoever chooses a part can't make it look like another.
type partKey [2]uint64

func newRecurring() *recurring {
	r := &recurring{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	var err error
	r.parts, err = simplelru.NewLRU(recurringBytes/recurringOverhead, func(_ partKey, compressed []byte) {
		r.bytes -= len(compressed) + recurringOverhead
	})
	if err != nil {
		panic(err) // only a constant below 1
	}
	return r
}

func (r *recurring) key(plain []byte) partKey {
	return partKey{maphash.Bytes(r.seeds[0], plain), maphash.Bytes(r.seeds[1], plain)}
}

func (r *recurring) get(key partKey) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parts.Get(key)
}

func (r *recurring) add(key partKey, compressed []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts.Remove(key) // if another was faster
	r.parts.Add(key, compressed)
	for r.bytes += len(compressed) + recurringOverhead; r.bytes > recurringBytes; {
		r.parts.RemoveOldest()
	}
}

// addPart takes over a block that is a part of its own. It is compressed if it is not known, and fails as add does.
func (p *parts) addPart(ctx context.Context, block []byte) error {
	whole := &part{out: make(chan []byte, 1), kept: true}
	key := p.compressor.recurring.key(block)
	if compressed, known := p.compressor.recurring.get(key); known {
		p.compressor.recycle(block)
		whole.out <- compressed
		close(whole.out)
		return p.enqueue(whole)
	}
	e, err := p.encoder(ctx)
	if err != nil {
		return err
	}
	go func() {
		defer close(whole.out)
		var compressed []byte
		e, compressed, whole.err = p.compressor.encodeWhole(e, block)
		p.compressor.encoders <- e
		if whole.err == nil {
			p.compressor.recurring.add(key, compressed)
			whole.out <- compressed
		}
	}()
	return p.enqueue(whole)
}

// encodeWhole compresses a block and takes it over. It returns the encoder, or none if it is of no more use.
func (c *Compressor) encodeWhole(e encoder, block []byte) (encoder, []byte, error) {
	defer c.recycle(block)
	if e == nil {
		var err error
		if e, err = c.newEncoder(); err != nil {
			return nil, nil, err
		}
	}
	var compressed bytes.Buffer
	e.Reset(&compressed)
	if _, err := e.Write(block); err != nil {
		return nil, nil, err
	}
	if err := e.Close(); err != nil {
		return nil, nil, err
	}
	return e, bytes.Clone(compressed.Bytes()), nil
}
