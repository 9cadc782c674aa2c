package layer

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// BenchmarkPack packs some 100 MB of the machine's own store (or of the one below
// BENCH_STORE_ROOT), or of a made-up one where there is none.
func BenchmarkPack(b *testing.B) {
	root, paths := benchStore(b)
	for _, c := range []compress.Compression{compress.Gzip, compress.Zstd, compress.None} {
		b.Run(c.String(), func(b *testing.B) {
			b.ReportAllocs()
			var packed int64
			for b.Loop() {
				result, err := Pack(
					context.Background(), io.Discard, compress.New(c, 2), paths, Options{StoreRoot: root},
				)
				if err != nil {
					b.Fatal(err)
				}
				packed = result.Size
			}
			plain, err := Pack(
				context.Background(), io.Discard, compress.New(compress.None, 2), paths, Options{StoreRoot: root},
			)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(plain.Size)
			b.ReportMetric(float64(packed)/float64(plain.Size), "ratio")
		})
	}
}

func benchStore(b *testing.B) (root string, paths []store.Path) {
	root = os.Getenv("BENCH_STORE_ROOT")
	entries, _ := os.ReadDir(filepath.Join("/", root, store.Dir))
	var size int64
	for _, entry := range entries {
		p, err := store.ParsePath(store.Dir + "/" + entry.Name())
		if err != nil || size > 100<<20 {
			continue
		}
		filepath.Walk(filepath.Join("/", root, string(p)), func(_ string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				size += info.Size()
			}
			return nil
		})
		paths = append(paths, p)
	}
	if size > 1<<20 {
		return root, paths
	}
	root = b.TempDir()
	p := store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-bench")
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		// Half words, half noise, as programs compress.
		data := make([]byte, random.IntN(200_000))
		for j := range data {
			if data[j] = byte(random.UintN(256)); j&64 == 0 {
				data[j] = "registry"[j&7]
			}
		}
		name := filepath.Join(root, string(p), strconv.Itoa(i%30), strconv.Itoa(i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o444); err != nil {
			b.Fatal(err)
		}
	}
	return root, []store.Path{p}
}
