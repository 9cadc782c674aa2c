package nixbuilder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar/nartest"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records/recordstest"
	"github.com/nixery-registry/nixery-registry/nixbuilder/rootfs"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// A cachedStore is a directory with a Nix store in it, all of whose paths are in a binary cache.
type cachedStore struct {
	root, cache string
	paths       []store.Path
	caches      *binarycache.Caches
}

// newCachedStore makes a store of files, by name below its directory. What begins with "-> " is a
// symbolic link.
func newCachedStore(t *testing.T, files map[string]string) cachedStore {
	t.Helper()
	s := cachedStore{root: t.TempDir(), cache: t.TempDir()}
	write := func(name, content string) {
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if target, isLink := strings.CutPrefix(content, "-> "); err == nil && isLink {
			err = os.Symlink(target, name)
		} else if err == nil {
			err = os.WriteFile(name, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		write(filepath.Join(s.root, store.Dir, name), content)
		base, _, _ := strings.Cut(name, "/")
		s.paths = append(s.paths, store.Path(store.Dir+"/"+base))
	}
	slices.Sort(s.paths)
	s.paths = slices.Compact(s.paths)
	secret, public, err := signature.GenerateKeypair("cache.example.org-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(s.cache, "nix-cache-info"), "StoreDir: /nix/store\n")
	for _, p := range s.paths {
		archive := nartest.Dump(t, filepath.Join(s.root, string(p)))
		sum := sha256.Sum256(archive)
		info := narinfo.NarInfo{
			StorePath: string(p), URL: p.Name() + ".nar", Compression: "none", NarSize: uint64(len(archive)),
			NarHash: nixhash.MustNewHashWithEncoding(nixhash.SHA256, sum[:], nixhash.NixBase32, true),
		}
		sig, err := secret.Sign(nil, info.Fingerprint())
		if err != nil {
			t.Fatal(err)
		}
		info.Signatures = append(info.Signatures, sig)
		write(filepath.Join(s.cache, info.URL), string(archive))
		hash, _, _ := strings.Cut(p.Base(), "-")
		write(filepath.Join(s.cache, hash+".narinfo"), info.String())
	}
	options := binarycache.Options{
		Substituters: []string{"file://" + s.cache}, TrustedPublicKeys: []string{public.String()},
	}
	if s.caches, err = binarycache.New(options); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s cachedStore) supply(t *testing.T, l *listings) *cacheSupply {
	t.Helper()
	closure, err := s.caches.Closure(t.Context(), s.paths)
	if err != nil {
		t.Fatal(err)
	}
	return newCacheSupply(l, closure, t.TempDir())
}

// removeArchives leaves the cache with nothing but its narinfos.
func (s cachedStore) removeArchives(t *testing.T) {
	t.Helper()
	for _, p := range s.paths {
		if err := os.Remove(filepath.Join(s.cache, p.Name()+".nar")); err != nil {
			t.Fatal(err)
		}
	}
}

// files are those of the store.
func (s cachedStore) files() *rootfs.StoreFiles { return rootfs.NewStoreFiles(s.root) }

// rootLayer packs that of an image which has the first path as its package.
func (s cachedStore) rootLayer(ctx context.Context, files rootfs.Files) ([]byte, error) {
	tree, err := rootfs.Merge(ctx, []rootfs.Package{{Name: "a", Outputs: s.paths[:1]}}, s.paths, files)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	_, err = tree.Pack(ctx, &out, compress.New(compress.None, 1))
	return out.Bytes(), err
}

func newTestListings(t *testing.T, state records.State) *listings {
	t.Helper()
	l, err := newListings(state)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const (
	baseA = "aj2q88glyrgps19f9gidl6xyb2arnfva-a"
	baseB = "aj2q88glyrgps19f9gidl6xyb2arnfvb-b"
	baseC = "aj2q88glyrgps19f9gidl6xyb2arnfvc-c"
)

// manyLinks is a store whose first path leads everywhere.
func manyLinks() map[string]string {
	return map[string]string{
		baseA + "/bin/a":     "program",
		baseA + "/bin/other": "-> " + store.Dir + "/" + baseC + "/bin/c",
		baseA + "/etc":       "-> share/etc",
		baseA + "/gone":      "-> " + store.Dir + "/" + baseC + "/none/at/all",
		baseA + "/lib":       "-> ../" + baseC + "/lib",
		baseA + "/nix-support/propagated-user-env-packages": store.Dir + "/" + baseB,
		baseA + "/outside":          "-> /etc/hostname",
		baseA + "/share/etc/a":      "text",
		baseA + "/share/etc/passwd": "-> " + store.Dir + "/" + baseC + "/share/etc/passwd",
		baseA + "/\xff":             "not UTF-8",
		baseB + "/bin/b":            "program",
		baseB + "/lib/b.so":         "library",
		baseB + "/share/etc/b":      "text",
		baseB + "/share/etc/b.d":    "-> " + store.Dir + "/" + baseC + "/lib",
		baseB + "/nix-support/propagated-user-env-packages": "-> ../lists/more",
		baseB + "/lists/more":                               store.Dir + "/" + baseC + " /nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvd-not-there",
		baseB + "/share/etc/hosts":                          "127.0.0.1 localhost",
		baseC + "/bin/c":                                    "program",
		baseC + "/share/etc/passwd":                         "c:x:1:1:::",
		baseC + "/lib/c.so":                                 "library",
		baseC + "/lib/d/e":                                  "deep",
	}
}

// The root layer is the same out of a store and out of archives, and needs them once.
func TestRootLayerOfArchives(t *testing.T) {
	s := newCachedStore(t, manyLinks())
	want, err := s.rootLayer(t.Context(), s.files())
	if err != nil {
		t.Fatal(err)
	}
	state := recordstest.NewMemory()
	first := newTestListings(t, state)
	check := func(name string, l *listings) {
		t.Helper()
		a := s.supply(t, l)
		got, err := s.rootLayer(t.Context(), a)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: the root layer is another one, %v", name, err)
		}
		if err := a.keep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check("out of the archives", first)
	for _, p := range s.paths {
		if _, ok, err := first.records.Get(t.Context(), listingKey(p)); !ok || err != nil {
			t.Errorf("%s has no record, %v", p, err)
		}
	}
	// That list has a name which is not kept.
	if err := os.Rename(filepath.Join(s.cache, "b.nar"), filepath.Join(s.cache, "kept")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.rootLayer(t.Context(), s.supply(t, newTestListings(t, state))); !errors.As(
		err, new(*binarycache.MissingError),
	) {
		t.Errorf("without the archive that has a list of packages: %v", err)
	}
}

// What another image has needed is not downloaded again.
func TestListingsAreKept(t *testing.T) {
	files := manyLinks()
	delete(files, baseB+"/nix-support/propagated-user-env-packages")
	s := newCachedStore(t, files)
	want, err := s.rootLayer(t.Context(), s.files())
	if err != nil {
		t.Fatal(err)
	}
	state := recordstest.NewMemory()
	passing := newTestListings(t, state)
	a := s.supply(t, passing)
	if _, err := a.pack(t.Context(), new(bytes.Buffer), compress.New(compress.Gzip, 1), s.paths); err != nil {
		t.Fatal(err)
	}
	s.removeArchives(t)
	if got, err := s.rootLayer(t.Context(), a); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("after packing: the root layer is another one, %v", err)
	}
	if err := a.keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := s.rootLayer(t.Context(), s.supply(t, newTestListings(t, state))); err != nil ||
		!bytes.Equal(got, want) {
		t.Fatalf("in another process: the root layer is another one, %v", err)
	}
	if _, err := s.rootLayer(t.Context(), s.supply(t, newTestListings(t, recordstest.NewMemory()))); !errors.As(
		err, new(*binarycache.MissingError),
	) {
		t.Errorf("with nothing known: %v", err)
	}
}
