package compress

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"io"
	"strconv"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/opencontainers/go-digest"
)

// A client finds every file by the table. By the digest in the annotation, it knows that the table
// is the right one.
func TestSeekableLayers(t *testing.T) {
	large := prose(1, 5<<20) // more than a chunk
	write := func(t *testing.T, compression Compression) ([]byte, Result) {
		t.Helper()
		var blob bytes.Buffer
		result, err := New(compression, 2).Write(t.Context(), &blob, whole(func(a archive) error {
			return cmp.Or(a.link("bin/hi", "hello"), a.file("empty", ""), a.file("large", large), a.file("small", "x"))
		}))
		if err != nil {
			t.Fatal(err)
		}
		return blob.Bytes(), result
	}
	for _, compression := range []Compression{EStargz, ZstdChunked} {
		t.Run(compression.String(), func(t *testing.T) {
			blob, result := write(t, compression)
			if digest.FromBytes(blob) != result.Digest || int64(len(blob)) != result.Size {
				t.Errorf("wrote %d bytes of digest %s, reported %+v", len(blob), digest.FromBytes(blob), result)
			}
			plain := decompressed(t, compression, blob)
			if got := digest.FromBytes(plain); got != result.DiffID {
				t.Errorf("the archive's digest is %s, reported %s", got, result.DiffID)
			}
			if got := result.Annotations[estargz.StoreUncompressedSizeAnnotation]; got != strconv.Itoa(len(plain)) {
				t.Errorf("the archive has %d bytes, reported %s", len(plain), got)
			}
			again, _ := write(t, compression)
			if !bytes.Equal(again, blob) {
				t.Error("other bytes the second time")
			}

			reader, err := estargz.Open(
				io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))),
				estargz.WithDecompressors(new(zstdchunked.Decompressor)),
			)
			if err != nil {
				t.Fatal(err)
			}
			table, err := digest.Parse(result.Annotations[estargz.TOCJSONDigestAnnotation])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := reader.VerifyTOC(table); err != nil {
				t.Error(err)
			}
			if _, ok := reader.Lookup(estargz.NoPrefetchLandmark); !ok {
				t.Error("the whole layer would be loaded ahead")
			}
			found, err := reader.OpenFile("large")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(found)
			if err != nil || sha256.Sum256(got) != sha256.Sum256([]byte(large)) {
				t.Errorf("a file of %d bytes is another when read by the table (%v)", len(got), err)
			}
			if link, ok := reader.Lookup("bin/hi"); !ok || link.LinkName != "hello" {
				t.Errorf("a link is %+v in the table", link)
			}
		})
	}
}
