package binarycache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/nixery-registry/nixery-registry/nixbuilder/nar"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// newBucketServer serves an empty bucket, and returns the cache's URL. While status is not zero, it
// answers with that.
func newBucketServer(t *testing.T, status *int) (substituter string) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	objects := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.Contains(r.Header.Get("Authorization"), "Credential=key/") || !strings.Contains(r.URL.Path, "/bucket/"):
			w.WriteHeader(http.StatusForbidden)
		case *status != 0:
			w.WriteHeader(*status)
		default:
			objects.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return "s3://bucket?scheme=http&region=us-east-1&endpoint=" + server.Listener.Addr().String()
}

// TestGateway puts a cache into a bucket as Nix does, and reads it without Nix.
func TestGateway(t *testing.T) {
	status := 0
	substituter := newBucketServer(t, &status)
	if err := Answers(t.Context(), substituter); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty bucket answers with %v, want that it is no cache yet", err)
	}
	g, err := OpenGateway(substituter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	ask := func(method, url string, body io.Reader) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}

	// What a cache holds is taken from another one.
	from := newFake(t)
	archive := someArchive(t, "text")
	from.add(t, pathA, archive, "none", nil)
	for name, content := range from.files {
		if got, _ := ask(http.MethodHead, g.WriteURL()+"/"+name, nil); got != http.StatusNotFound {
			t.Errorf("before %s is there, the answer is %d", name, got)
		}
		if got, text := ask(http.MethodPut, g.WriteURL()+"/"+name, bytes.NewReader(content)); got != http.StatusOK {
			t.Fatalf("writing %s: %d %s", name, got, text)
		}
		for _, url := range []string{g.ReadURL(), g.WriteURL()} {
			if got, text := ask(http.MethodGet, url+"/"+name, nil); got != http.StatusOK || text != string(content) {
				t.Errorf("reading %s: %d with %d bytes, want %d", name, got, len(text), len(content))
			}
		}
	}
	o := Options{Substituters: []string{substituter}, TrustedPublicKeys: []string{from.public.String()}}
	caches, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	closure, err := caches.Closure(t.Context(), []store.Path{pathA})
	if err != nil {
		t.Fatal(err)
	}
	if err := closure[0].Read(t.Context(), func(nar.Entry) error { return nil }); err != nil {
		t.Errorf("reading the archive: %v", err)
	}
	half, err := closure[0].cache.files.open(t.Context(), narFile(pathA), int64(len(archive)/2))
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if rest, err := io.ReadAll(half); err != nil || !bytes.Equal(rest, archive[len(archive)/2:]) {
		t.Errorf("from the middle on, %d bytes were read, %v", len(rest), err)
	}

	base := strings.TrimSuffix(g.ReadURL(), g.read)
	for _, test := range []struct {
		name, method, url string
		bucket, want      int
	}{
		{"without a token", http.MethodGet, base + "/nix-cache-info", 0, http.StatusNotFound},
		{"with another token", http.MethodPut, base + "/ABC/nix-cache-info", 0, http.StatusNotFound},
		{"the token alone", http.MethodGet, g.ReadURL(), 0, http.StatusNotFound},
		{"out of the bucket", http.MethodGet, g.ReadURL() + "/..%2fother/x", 0, http.StatusNotFound},
		{"writing with the right to read", http.MethodPut, g.ReadURL() + "/nix-cache-info", 0, http.StatusMethodNotAllowed},
		{"deleting", http.MethodDelete, g.WriteURL() + "/nix-cache-info", 0, http.StatusMethodNotAllowed},
		{"what is forbidden", http.MethodGet, g.ReadURL() + "/x", http.StatusForbidden, http.StatusNotFound},
		{"writing what is forbidden", http.MethodPut, g.WriteURL() + "/x", http.StatusForbidden, http.StatusBadGateway},
		{"reading when it is down", http.MethodGet, g.ReadURL() + "/x", http.StatusServiceUnavailable, http.StatusBadGateway},
	} {
		status = test.bucket
		if got, text := ask(test.method, test.url, strings.NewReader("x")); got != test.want {
			t.Errorf("%s: %d %s, want %d", test.name, got, text, test.want)
		}
	}
}

// TestShareFails asks a share that has nothing, is down, or does not give what it has: others are
// asked, as if it were empty.
func TestShareFails(t *testing.T) {
	archive := someArchive(t, "text")
	down := func(suffix string) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if strings.HasSuffix(r.URL.Path, suffix) {
				http.Error(w, "", http.StatusServiceUnavailable)
				return true
			}
			return false
		}
	}
	for _, test := range []struct {
		name     string
		set      func(share *fake)
		unusable bool
		from     string // share, other or none
		damaged  bool   // the share's archive
		failed   bool
	}{
		{name: "it has it", set: func(f *fake) { f.add(t, pathA, archive, "none", nil) }, from: "share"},
		{name: "it is empty", set: func(*fake) {}, from: "other"},
		{name: "it is unusable", set: func(f *fake) { f.add(t, pathA, archive, "none", nil) }, unusable: true, from: "other"},
		{name: "it is down", set: func(f *fake) { f.serve = down(".narinfo") }, from: "other", failed: true},
		{name: "its archives are down", set: func(f *fake) {
			f.add(t, pathA, archive, "none", nil)
			f.serve = down(".nar")
		}, from: "share", damaged: true, failed: true},
	} {
		for _, others := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, others %v", test.name, others), func(t *testing.T) {
				share, other := newFake(t), newFake(t)
				test.set(share)
				failures := 0
				o := Options{
					TrustedPublicKeys: []string{share.public.String(), other.public.String()},
					Share: Share{
						URL: share.url(), Usable: func(context.Context) bool { return !test.unusable },
						Failed: func(error) { failures++ },
					},
				}
				if others {
					other.add(t, pathA, archive, "none", nil)
					o.Substituters = []string{other.url()}
				}
				caches, err := New(o)
				if err != nil {
					t.Fatal(err)
				}
				closure, err := caches.Closure(t.Context(), []store.Path{pathA})
				missing := (*MissingError)(nil)
				switch want := test.from; {
				case want == "other" && !others:
					if !errors.As(err, &missing) {
						t.Errorf("the error is %v, want that it is missing", err)
					}
				case err != nil || (closure[0].cache.share != nil) != (want == "share"):
					t.Errorf("it was found in %v, %v, want %s", closure, err, want)
				case want == "share":
					err := closure[0].Read(t.Context(), func(nar.Entry) error { return nil })
					if test.damaged != (errors.As(err, &missing) && missing.Damaged) || !test.damaged && err != nil {
						t.Errorf("reading it: %v", err)
					}
				}
				if (failures > 0) != test.failed {
					t.Errorf("it was said to have failed %d times", failures)
				}
			})
		}
	}
}
