package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"hash/maphash"
	"io"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Archives that resemble others are cut into parts where the names of their entries say, so that
// what is added to one changes the part it is in and no other. These numbers are part of the format
// of layers.
const (
	// cutsApart is how many entries a part has on average, if it is not cut for its size.
	cutsApart = 128
	// minRecurringBytes is what a part has before it is cut by name. It has at most a block.
	minRecurringBytes = 16 << 10
)

// What is kept in memory.
const (
	// recurringBytes bounds the compressed parts, some thirty root directories of hundreds of
	// packages.
	recurringBytes = 8 << 20
	// recurringOverhead is, roughly, what a part takes besides its bytes.
	recurringOverhead = 200
	// sectionsKept bounds what is known of sections, of some 300 bytes and 16 for each part. Those
	// of more than sectionParts are not kept.
	sectionsKept = 500
	sectionParts = 500
)

// A Section is what an archive begins with, or what follows another section. Whenever its key and
// those of all sections before it are the same, so are its entries.
type Section struct {
	Key  string
	Fill func(*Tar) error
}

// WriteRecurring is Write for an archive, sections and a rest, much of which was, most likely, in
// others before. What was compressed for them is used again; sections that another one began with
// need not even be filled. Parts are small and begin anew, for which the layer takes some more
// bytes.
func WriteRecurring(
	ctx context.Context, w io.Writer, c *Compressor, sections []Section, rest func(*Tar) error,
) (Result, error) {
	if c.compression != Gzip && c.compression != Zstd {
		return Write(ctx, w, c, func(t *Tar) error {
			for _, section := range sections {
				if err := section.Fill(t); err != nil {
					return err
				}
			}
			return rest(t)
		})
	}
	return assemble(ctx, w, c, func(ctx context.Context, a *assembly) error {
		keys := sectionKeys(sections)
		known := c.recurring.begin(keys)
		fill := func(t *Tar) error {
			for i := known.sections; i < len(sections); i++ {
				if err := sections[i].Fill(t); err != nil {
					return err
				}
				if err := t.endPart(); err != nil {
					return err
				}
				if err := a.then(ctx, func() error { return a.remember(keys[i]) }); err != nil {
					return err
				}
			}
			return rest(t)
		}
		if err := a.then(ctx, func() error { return a.resume(known) }); err != nil {
			return err
		}
		return archive(ctx, c, true, fill, func(block []byte) error {
			return a.then(ctx, func() error {
				a.diffID.Write(block)
				return a.parts.addPart(ctx, block)
			})
		})
	})
}

// resume goes on after sections that are known.
func (a *assembly) resume(known beginning) error {
	if known.sections == 0 {
		return nil
	}
	for _, compressed := range known.compressed {
		if err := a.parts.addCompressed(compressed); err != nil {
			return err
		}
	}
	return a.diffID.(encoding.BinaryUnmarshaler).UnmarshalBinary(known.hashed)
}

// remember keeps what was found out of a section that was just added.
func (a *assembly) remember(key sectionKey) error {
	added := a.parts.added
	a.parts.added = nil
	if len(added) > sectionParts {
		return nil
	}
	hashed, err := a.diffID.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	a.parts.compressor.recurring.addSection(key, section{added, hashed})
	return nil
}

// recurring holds the compressed form of parts that may come again, and of which parts sections are
// made, those used last. It is safe for concurrent use.
type recurring struct {
	seeds [2]maphash.Seed

	mu       sync.Mutex
	parts    *simplelru.LRU[partKey, []byte] // not changed any more
	bytes    int
	sections *simplelru.LRU[sectionKey, section]
}

// partKey is of two hashes whose seeds nobody knows: whoever chooses a part can't make it look like
// another.
type partKey [2]uint64

// sectionKey is of the keys of a section and of all those before it.
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

// section is what is known of one.
type section struct {
	parts  []partKey
	hashed []byte // the state of an archive's hash after it
}

func newRecurring() *recurring {
	r := &recurring{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	var err error
	r.parts, err = simplelru.NewLRU(recurringBytes/recurringOverhead, func(_ partKey, compressed []byte) {
		r.bytes -= len(compressed) + recurringOverhead
	})
	if err != nil {
		panic(err) // only a constant below 1
	}
	if r.sections, err = simplelru.NewLRU[sectionKey, section](sectionsKept, nil); err != nil {
		panic(err)
	}
	return r
}

// beginning is how an archive begins, as far as that is known.
type beginning struct {
	sections   int
	compressed [][]byte
	hashed     []byte
}

// begin finds the sections that are known, up to the first one that is not.
func (r *recurring) begin(keys []sectionKey) (b beginning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		known, ok := r.sections.Get(key)
		if !ok {
			return b
		}
		compressed := b.compressed
		for _, key := range known.parts {
			part, ok := r.parts.Get(key)
			if !ok {
				return b
			}
			compressed = append(compressed, part)
		}
		b = beginning{b.sections + 1, compressed, known.hashed}
	}
	return b
}

func (r *recurring) addSection(key sectionKey, s section) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sections.Add(key, s)
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

// addPart takes over a block that is a part of its own. It is compressed if it is not known, and
// fails as add does.
func (p *parts) addPart(ctx context.Context, block []byte) error {
	key := p.compressor.recurring.key(block)
	p.added = append(p.added, key)
	if compressed, known := p.compressor.recurring.get(key); known {
		p.compressor.recycle(block)
		return p.addCompressed(compressed)
	}
	e, err := p.encoder(ctx)
	if err != nil {
		return err
	}
	whole := &part{out: make(chan []byte, 1), kept: true}
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

// addCompressed adds a part that is remembered.
func (p *parts) addCompressed(compressed []byte) error {
	whole := &part{out: make(chan []byte, 1), kept: true}
	whole.out <- compressed
	close(whole.out)
	return p.enqueue(whole)
}

// encodeWhole compresses a block and takes it over. It returns the encoder, or none if it is of no
// more use.
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
