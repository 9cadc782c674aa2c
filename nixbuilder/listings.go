package nixbuilder

import (
	"context"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

const (
	// maxListingBytes is how large the listing of a store path may be. A file in it takes about 20
	// bytes.
	maxListingBytes = 32 << 20
	// listingsCached is how many bytes of listings are in memory that were read from the State. One
	// is mostly 1 or 2 KB, compressed.
	listingsCached = 1 << 20
	// freshBytes is how many bytes of listings, compressed, are in memory that came by with
	// archives.
	freshBytes = 64 << 20
)

// listings tell what is in store paths, without most files' content. They are gathered while
// archives are read. Those that root layers needed are also records. They are safe for concurrent
// use.
type listings struct {
	records *records.Table[[]byte]
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	fresh   *weighted.Cache[store.Path, []byte]
}

func newListings(state records.State) (*listings, error) {
	l := &listings{
		records: records.NewTable[[]byte](state, "listings", listingsCached),
		fresh:   weighted.New[store.Path, []byte](freshBytes),
	}
	var err error
	if l.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
		return nil, err
	}
	l.decoder, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxListingBytes))
	return l, err
}

func listingKey(p store.Path) string {
	return records.Key("listing", fmt.Sprint(listingFormat), string(p))
}

// add keeps a listing in memory, as long as there is room.
func (l *listings) add(p store.Path, listing []byte) {
	compressed := l.encoder.EncodeAll(listing, nil)
	l.fresh.Add(p, compressed, len(compressed))
}

// get returns nil if the listing is not known.
func (l *listings) get(ctx context.Context, p store.Path) (*nar.Listing, error) {
	compressed, ok := l.fresh.Get(p)
	if !ok {
		var err error
		if compressed, ok, err = l.records.Get(ctx, listingKey(p)); err != nil || !ok {
			return nil, err
		}
	}
	plain, err := l.decoder.DecodeAll(compressed, nil)
	if err != nil {
		return nil, fmt.Errorf("decompressing the listing of %s: %w", p, err)
	}
	return nar.ParseListing(plain)
}

// record writes a listing that is only in memory into the State.
func (l *listings) record(ctx context.Context, p store.Path) error {
	key := listingKey(p)
	compressed, ok := l.fresh.Get(p)
	if !ok || l.records.Cached(key) {
		return nil
	}
	return l.records.Put(ctx, key, compressed)
}
