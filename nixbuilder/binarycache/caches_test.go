package binarycache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nar/nartest"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	pathA = store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-a-1.0")
	pathB = store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvb-b-1.0")
	pathC = store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvc-c-1.0")
)

// A fake is a binary cache behind HTTP whose answers a test decides.
type fake struct {
	*httptest.Server
	secret signature.SecretKey
	public signature.PublicKey

	mu    sync.Mutex
	files map[string][]byte
	// serve, if not nil, answers instead; it is false if it left that to the files. Requests are
	// counted from one, for each file.
	serve func(w http.ResponseWriter, r *http.Request, times int) bool
	asked map[string]int
}

func newFake(t testing.TB) *fake {
	t.Helper()
	secret, public, err := signature.GenerateKeypair("cache.example.org-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{
		secret: secret, public: public, asked: make(map[string]int),
		files: map[string][]byte{"nix-cache-info": []byte("StoreDir: /nix/store\nWantMassQuery: 1\n")},
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/cache/")
		f.mu.Lock()
		f.asked[name]++
		content, ok := f.files[name]
		times, serve := f.asked[name], f.serve
		f.mu.Unlock()
		switch {
		case serve != nil && serve(w, r, times):
		case !ok:
			http.NotFound(w, r)
		default:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) url() string { return f.URL + "/cache/" }

func (f *fake) set(name string, content []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[name] = content
}

// requests returns how often files were asked for whose names end so.
func (f *fake) requests(suffix string) (count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, times := range f.asked {
		if strings.HasSuffix(name, suffix) {
			count += times
		}
	}
	return count
}

func narFile(p store.Path) string { return "nar/" + p.Name() + ".nar" }

// add puts a path into the cache. What is signed is the path before change changes what is stored.
func (f *fake) add(
	t testing.TB, p store.Path, archive []byte, compression string, change func(*narinfo.NarInfo, *[]byte),
	references ...store.Path,
) {
	t.Helper()
	file := compress(t, compression, archive)
	info := &narinfo.NarInfo{
		StorePath: string(p), URL: narFile(p), Compression: compression,
		NarHash: sha256Of(archive), NarSize: uint64(len(archive)),
		FileHash: sha256Of(file), FileSize: uint64(len(file)),
	}
	for _, reference := range references {
		info.References = append(info.References, reference.Base())
	}
	sig, err := f.secret.Sign(nil, info.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	info.Signatures = append(info.Signatures, sig)
	if change != nil {
		change(info, &file)
	}
	f.set(narFile(p), file)
	f.set(hashPart(p)+".narinfo", []byte(info.String()))
}

func sha256Of(b []byte) *nixhash.HashWithEncoding {
	sum := sha256.Sum256(b)
	return nixhash.MustNewHashWithEncoding(nixhash.SHA256, sum[:], nixhash.NixBase32, true)
}

func compress(t testing.TB, compression string, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch compression {
	case "none":
		return plain
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b)
	default:
		t.Fatalf("nothing writes %s here", compression)
	}
	if err == nil {
		_, err = w.Write(plain)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// use opens caches, and trusts all their keys.
func use(t testing.TB, fakes ...*fake) *Caches {
	t.Helper()
	o := Options{Pause: time.Millisecond, Patience: 2 * time.Second}
	for _, f := range fakes {
		o.Substituters = append(o.Substituters, f.url())
		o.TrustedPublicKeys = append(o.TrustedPublicKeys, f.public.String())
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// someArchive returns the archive of a directory with a few files, whose content begins with text,
// and some large ones.
func someArchive(t testing.TB, text string) []byte {
	t.Helper()
	dir := t.TempDir()
	noise := sha256.Sum256([]byte(text))
	for name, content := range map[string]string{"bin": text,
		"large": strings.Repeat(hex.EncodeToString(noise[:]), 10_000), "share": text + " again"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return nartest.Dump(t, dir)
}

func list(closure []*Archive) (paths []store.Path) {
	for _, a := range closure {
		paths = append(paths, a.Path)
	}
	return paths
}

func TestClosure(t *testing.T) {
	f := newFake(t)
	archive := someArchive(t, "text")
	f.add(t, pathA, archive, "none", nil, pathA, pathB, pathC)
	f.add(t, pathB, archive, "none", nil, pathC)
	f.add(t, pathC, archive, "none", nil)
	c := use(t, f)
	for range 2 {
		closure, err := c.Closure(t.Context(), []store.Path{pathB, pathA})
		if err != nil || !slices.Equal(list(closure), []store.Path{pathA, pathB, pathC}) {
			t.Fatalf("the closure is %v, %v", list(closure), err)
		}
		if a := closure[0]; a.NarSize != int64(len(archive)) ||
			!slices.Equal(a.References, []store.Path{pathA, pathB, pathC}) {
			t.Errorf("the first path is %+v", a.PathInfo)
		}
	}
	if n := f.requests(".narinfo"); n != 3 {
		t.Errorf("%d narinfos were asked for, want 3", n)
	}
	if n := f.requests("nix-cache-info"); n != 1 {
		t.Errorf("nix-cache-info was asked for %d times", n)
	}
}

func TestClosureOfSeveralCaches(t *testing.T) {
	archive := someArchive(t, "text")
	add := func(f *fake) { f.add(t, pathA, archive, "none", nil) }
	down := func(f *fake) {
		f.serve = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			http.Error(w, "", http.StatusServiceUnavailable)
			return true
		}
	}
	unsigned := func(f *fake) {
		f.add(t, pathA, archive, "none", func(i *narinfo.NarInfo, _ *[]byte) { i.Signatures = nil })
	}
	nothing := func(*fake) {}
	priority := func(n int, then func(*fake)) func(*fake) {
		return func(f *fake) {
			f.set("nix-cache-info", fmt.Appendf(nil, "StoreDir: /nix/store\nPriority: %d\n", n))
			then(f)
		}
	}
	for _, test := range []struct {
		name    string
		caches  []func(*fake)
		from    int    // the cache that it is found in; -1: none
		missing string // the reason; empty: it may be there at another time
	}{
		{"the first", []func(*fake){add, add}, 0, ""},
		{"the second has it", []func(*fake){nothing, add}, 1, ""},
		{"the better priority", []func(*fake){add, priority(40, add)}, 1, ""},
		{"the worse priority", []func(*fake){add, priority(60, add)}, 0, ""},
		{"the second is signed", []func(*fake){unsigned, add}, 1, ""},
		{"the second is up", []func(*fake){down, add}, 1, ""},
		{"the first is up", []func(*fake){add, down}, 0, ""},
		{
			"another store",
			[]func(*fake){func(f *fake) { f.set("nix-cache-info", []byte("StoreDir: /opt/store\n")); add(f) }, add},
			1, "",
		},
		{"nothing", []func(*fake){nothing, nothing}, -1, "no binary cache has it"},
		{"not signed", []func(*fake){unsigned, nothing}, -1, "a binary cache has it, but no trusted key has signed it"},
		{"down", []func(*fake){nothing, down}, -1, ""},
		{"down and not signed", []func(*fake){unsigned, down}, -1, ""},
		{
			"nonsense", []func(*fake){func(f *fake) { f.set(hashPart(pathA)+".narinfo", []byte("<html>")) }},
			-1, "a binary cache has it, but what it says of it can't be true",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var fakes []*fake
			for _, setUp := range test.caches {
				f := newFake(t)
				setUp(f)
				fakes = append(fakes, f)
			}
			closure, err := use(t, fakes...).Closure(t.Context(), []store.Path{pathA})
			var missing *MissingError
			switch {
			case test.from >= 0:
				if err != nil || closure[0].cache.url.String() != fakes[test.from].url() {
					t.Errorf("found %v, %v", closure, err)
				}
			case test.missing != "":
				if !errors.As(err, &missing) || missing.Reason != test.missing || missing.Path != pathA ||
					missing.Damaged {
					t.Errorf("error %v, want that it is missing: %s", err, test.missing)
				}
			default:
				if err == nil || errors.As(err, &missing) || !strings.Contains(err.Error(), "503") {
					t.Errorf("error %v, want one that passes", err)
				}
			}
		})
	}
}

// A priority in the URL comes before the cache's own.
// TestSigners asks for the signers of a path whose signatures are not trusted.
func TestSigners(t *testing.T) {
	f := newFake(t)
	f.add(t, pathA, []byte("archive"), "none", nil)
	signed := f.files[hashPart(pathA)+".narinfo"]
	for _, test := range []struct {
		name, more string
		want       []string
	}{
		{"one", "", []string{"cache.example.org-1"}},
		{
			"two, and one that is none",
			"Sig: b.example.org-1:" + base64.StdEncoding.EncodeToString(make([]byte, 64)) + "\nSig: nonsense\n",
			[]string{"b.example.org-1", "cache.example.org-1"},
		},
		{
			"a long name",
			"Sig: " + strings.Repeat("x", 1000) + ":" + base64.StdEncoding.EncodeToString(make([]byte, 64)) + "\n",
			[]string{"cache.example.org-1"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f.set(hashPart(pathA)+".narinfo", append(slices.Clone(signed), test.more...))
			if got, err := Signers(t.Context(), f.url(), pathA); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("Signers() = %q, %v, want %q", got, err, test.want)
			}
		})
	}
	if got, err := Signers(t.Context(), f.url(), pathB); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Signers() of what is not there = %q, %v", got, err)
	}
}

func TestPriorityInURL(t *testing.T) {
	first, second := newFake(t), newFake(t)
	archive := someArchive(t, "text")
	for _, f := range []*fake{first, second} {
		f.add(t, pathA, archive, "none", nil)
	}
	c, err := New(Options{
		Substituters:      []string{first.url(), second.url() + "?priority=10"},
		TrustedPublicKeys: []string{first.public.String(), second.public.String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	closure, err := c.Closure(t.Context(), []store.Path{pathA})
	if err != nil || closure[0].cache.url.String() != second.url() {
		t.Errorf("found %v, %v", closure, err)
	}
}

func find(t testing.TB, c *Caches, p store.Path) *Archive {
	t.Helper()
	closure, err := c.Closure(t.Context(), []store.Path{p})
	if err != nil {
		t.Fatal(err)
	}
	return closure[slices.Index(list(closure), p)]
}

// content reads an archive, and what its first file holds.
func content(ctx context.Context, a *Archive) (string, error) {
	var text []byte
	err := a.Read(ctx, func(e nar.Entry) (err error) {
		if e.Content != nil && text == nil {
			text, err = io.ReadAll(e.Content)
		}
		return err
	})
	return string(text), err
}

func TestRead(t *testing.T) {
	archive := someArchive(t, "text")
	for _, compression := range []string{"none", "gzip", "zstd"} {
		for _, said := range []bool{true, false} {
			t.Run(fmt.Sprint(compression, " ", said), func(t *testing.T) {
				f := newFake(t)
				f.add(t, pathA, archive, compression, func(i *narinfo.NarInfo, _ *[]byte) {
					if !said {
						i.FileHash, i.FileSize = nil, 0
					}
				})
				if got, err := content(t.Context(), find(t, use(t, f), pathA)); got != "text" || err != nil {
					t.Errorf("read %q, %v", got, err)
				}
			})
		}
	}
}

// An archive that is not what was signed is never taken, and another cache is asked the next time.
func TestReadDamaged(t *testing.T) {
	archive := someArchive(t, "text")
	for _, test := range []struct {
		name, compression string
		change            func(*narinfo.NarInfo, *[]byte)
		want              string
	}{
		{
			"another content", "none",
			func(_ *narinfo.NarInfo, b *[]byte) { *b = bytes.Replace(*b, []byte("text"), []byte("tex7"), 1) },
			"not the one that was signed",
		},
		{
			"another archive", "zstd",
			func(_ *narinfo.NarInfo, b *[]byte) { *b = compress(t, "zstd", someArchive(t, "else")) },
			"not the one that was signed",
		},
		{"a flipped bit", "zstd", func(_ *narinfo.NarInfo, b *[]byte) { (*b)[len(*b)/2] ^= 1 }, "can't be"},
		{"cut off", "none", func(_ *narinfo.NarInfo, b *[]byte) { *b = (*b)[:len(*b)/2] }, "cut off"},
		{"cut off at the end", "none", func(_ *narinfo.NarInfo, b *[]byte) { *b = (*b)[:len(*b)-8] }, "cut off"},
		{
			"cut off and compressed", "gzip", func(_ *narinfo.NarInfo, b *[]byte) { *b = (*b)[:len(*b)/2] },
			"can't be decompressed",
		},
		{"empty", "zstd", func(_ *narinfo.NarInfo, b *[]byte) { *b = nil }, "cut off"},
		{
			"longer", "none",
			func(i *narinfo.NarInfo, b *[]byte) { *b = append(*b, 0); i.FileHash, i.FileSize = nil, 0 },
			"longer",
		},
		{"longer file", "none", func(_ *narinfo.NarInfo, b *[]byte) { *b = append(*b, 0) }, "longer"},
		{
			"two archives", "zstd",
			func(i *narinfo.NarInfo, b *[]byte) { *b = append(*b, *b...); i.FileHash, i.FileSize = nil, 0 },
			"longer",
		},
		{"a bomb", "gzip", func(i *narinfo.NarInfo, b *[]byte) {
			*b = compress(t, "gzip", append(slices.Clone(archive), make([]byte, 50<<20)...))
			i.FileHash, i.FileSize = nil, 0
		}, "longer"},
		{"another compression", "none", func(i *narinfo.NarInfo, _ *[]byte) { i.Compression = "xz" }, "can't be read"},
		{
			"another file hash", "none", func(i *narinfo.NarInfo, _ *[]byte) { i.FileHash = sha256Of(nil) },
			"another hash than the cache says",
		},
		{"no archive", "none", func(i *narinfo.NarInfo, _ *[]byte) { i.URL = "nar/none" }, "is gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad, good := newFake(t), newFake(t)
			bad.add(t, pathA, archive, test.compression, test.change)
			c := use(t, bad, good)
			_, err := content(t.Context(), find(t, c, pathA))
			var missing *MissingError
			if !errors.As(err, &missing) || !missing.Damaged || missing.Path != pathA ||
				!strings.Contains(missing.Reason, test.want) {
				t.Fatalf("error %v, want that it is damaged: %s", err, test.want)
			}
			if _, err := c.Closure(t.Context(), []store.Path{pathA}); !errors.As(err, &missing) || missing.Damaged ||
				!strings.Contains(missing.Reason, test.want) {
				t.Errorf("with no other cache: %v", err)
			}
			good.add(t, pathA, archive, "zstd", nil)
			if got, err := content(t.Context(), find(t, c, pathA)); got != "text" || err != nil {
				t.Errorf("out of another cache: %q, %v", got, err)
			}
		})
	}
}

// An archive that no honest cache has: signed, and not one that Nix would write.
func TestReadHostile(t *testing.T) {
	var archive bytes.Buffer
	nartest.Words(
		&archive, "nix-archive-1", "(", "type", "directory", "entry", "(", "name", "..", "node", "(", "type",
		"directory", ")", ")", ")",
	)
	f := newFake(t)
	f.add(t, pathA, archive.Bytes(), "none", nil)
	if _, err := content(t.Context(), find(t, use(t, f), pathA)); !errors.As(err, new(*MissingError)) {
		t.Errorf("error %v, want that it is missing", err)
	}
}

// `echo hi | xz --lzma2=dict=192MiB` writes this. No preset of xz needs as much memory.
func TestXzMemory(t *testing.T) {
	stream := base64.NewDecoder(
		base64.StdEncoding,
		strings.NewReader("/Td6WFoAAATm1rRGAgAhAR8AAAD+YO3eAQACaGkKAAD7e+joKlhDTwABGwMLL7kQH7bzfQEAAAAABFla"),
	)
	plain, done, err := decompressor("xz", stream)
	defer done()
	if err == nil {
		_, err = io.ReadAll(plain)
	}
	if !errors.Is(err, xz.ErrMemlimit) {
		t.Errorf("error %v, want %v", err, xz.ErrMemlimit)
	}
}

func TestReadVisitor(t *testing.T) {
	f := newFake(t)
	f.add(t, pathA, someArchive(t, "text"), "none", nil)
	full := errors.New("the disk is full")
	err := find(t, use(t, f), pathA).Read(t.Context(), func(nar.Entry) error { return full })
	if !errors.Is(err, full) || errors.As(err, new(*MissingError)) {
		t.Errorf("error %v, want the visitor's", err)
	}
}

// A download that fails on the way is tried again, and goes on where it was.
func TestDownload(t *testing.T) {
	archive := someArchive(t, "text")
	cut := func(upTo int) func(w http.ResponseWriter, r *http.Request, times int) bool {
		return func(w http.ResponseWriter, r *http.Request, times int) bool {
			if path.Ext(r.URL.Path) != ".nar" || times > upTo {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(archive)))
			_, _ = w.Write(archive[:len(archive)/3])
			panic(http.ErrAbortHandler)
		}
	}
	for _, test := range []struct {
		name  string
		serve func(w http.ResponseWriter, r *http.Request, times int) bool
		fails bool
	}{
		{"cut off once", cut(1), false},
		{"cut off once, and it can't go on in the middle",
			func(w http.ResponseWriter, r *http.Request, times int) bool {
				r.Header.Del("Range")
				return cut(1)(w, r, times)
			}, false},
		{"cut off always", func(w http.ResponseWriter, r *http.Request, _ int) bool { return cut(99)(w, r, 1) }, true},
		{"another range than was asked for", func(w http.ResponseWriter, r *http.Request, times int) bool {
			if times > 1 && path.Ext(r.URL.Path) == ".nar" {
				r.Header.Set("Range", "bytes=1-")
			}
			return cut(1)(w, r, times)
		}, true},
		{"unavailable twice", func(w http.ResponseWriter, _ *http.Request, times int) bool {
			if times > 2 {
				return false
			}
			http.Error(w, "", http.StatusServiceUnavailable)
			return true
		}, false},
		{"too many requests", func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if path.Ext(r.URL.Path) != ".nar" {
				return false
			}
			http.Error(w, "", http.StatusTooManyRequests)
			return true
		}, true},
		{"no answer", func(_ http.ResponseWriter, r *http.Request, _ int) bool {
			if path.Ext(r.URL.Path) == ".nar" {
				<-r.Context().Done()
			}
			return false
		}, true},
		{"slow", func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if path.Ext(r.URL.Path) != ".nar" {
				return false
			}
			for i := 0; r.Context().Err() == nil; i++ {
				_, _ = w.Write(archive[i : i+1])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
			return true
		}, true},
		{"slow at first", func(w http.ResponseWriter, r *http.Request, times int) bool {
			if path.Ext(r.URL.Path) != ".nar" || times > 1 {
				return false
			}
			_, _ = w.Write(archive[:1000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return true
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.add(t, pathA, archive, "none", nil)
			f.serve = test.serve
			c := use(t, f)
			got, err := content(t.Context(), find(t, c, pathA))
			switch {
			case test.fails && (err == nil || errors.As(err, new(*MissingError))):
				t.Errorf("read %q, %v, want an error that passes", got, err)
			case !test.fails && (got != "text" || err != nil):
				t.Errorf("read %q, %v", got, err)
			}
			if n := f.requests(".nar"); n > 3 {
				t.Errorf("it was asked for %d times", n)
			}
		})
	}
}

// A reader that takes its time is not the cache's fault.
func TestDownloadForSlowReader(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.add(t, pathA, someArchive(t, "text"), "none", nil)
	err := find(t, use(t, f), pathA).Read(t.Context(), func(nar.Entry) error {
		time.Sleep(600 * time.Millisecond) // four of them are longer than the cache may take
		return nil
	})
	if err != nil || f.requests(".nar") != 1 {
		t.Errorf("%v, asked %d times", err, f.requests(".nar"))
	}
}

func TestReadEndsWithTheContext(t *testing.T) {
	f := newFake(t)
	archive := someArchive(t, "text")
	f.add(t, pathA, archive, "none", nil)
	f.serve = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if path.Ext(r.URL.Path) != ".nar" {
			return false
		}
		_, _ = w.Write(archive[:1000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := find(t, use(t, f), pathA).Read(ctx, func(nar.Entry) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A cache in a directory has the files in it, and no other.
func TestDirectory(t *testing.T) {
	f := newFake(t)
	f.add(t, pathA, someArchive(t, "text"), "zstd", nil)
	outside := t.TempDir()
	dir := filepath.Join(outside, "cache")
	for name, content := range f.files {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(Options{Substituters: []string{"file://" + dir}, TrustedPublicKeys: []string{f.public.String()}})
	if err != nil {
		t.Fatal(err)
	}
	a := find(t, c, pathA)
	if got, err := content(t.Context(), a); got != "text" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := c.Closure(t.Context(), []store.Path{pathB}); !errors.As(err, new(*MissingError)) {
		t.Errorf("a path that is not there: %v", err)
	}
	at := filepath.Join(dir, narFile(pathA))
	if err := errors.Join(os.Rename(at, filepath.Join(outside, "a.nar")), os.Symlink("../../a.nar", at)); err != nil {
		t.Fatal(err)
	}
	if _, err := content(t.Context(), a); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link out of the cache: %v", err)
	}
	if err := os.Rename(dir, dir+"-gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Closure(t.Context(), []store.Path{pathB}); err == nil || errors.As(err, new(*MissingError)) {
		t.Errorf("a cache that is not there any more: %v", err)
	}
}
