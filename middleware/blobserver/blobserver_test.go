package blobserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	registrymiddleware "github.com/distribution/distribution/v3/registry/middleware/registry"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/middleware/redirect"
	gorhandlers "github.com/gorilla/handlers"
	"github.com/opencontainers/go-digest"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

func init() {
	err := registrymiddleware.Register("blobserver", func(
		_ context.Context, registry distribution.Namespace, storage driver.StorageDriver, options map[string]any,
	) (distribution.Namespace, error) {
		redirect, _ := options["redirect"].(bool)
		return Wrap(registry, storage, redirect), nil
	})
	if err != nil {
		panic(err)
	}
}

// events counts what a registry notifies somebody of.
type events struct {
	server *httptest.Server
	mu     sync.Mutex
	got    []string
}

func newEvents(t *testing.T) *events {
	e := new(events)
	e.server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var envelope struct {
			Events []struct {
				Action string
				Target struct{ Digest string }
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&envelope)
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, event := range envelope.Events {
			e.got = append(e.got, event.Action+" "+event.Target.Digest)
		}
	}))
	t.Cleanup(e.server.Close)
	return e
}

// A registry serves a directory, with an access log.
type registry struct {
	server *httptest.Server
	app    *handlers.App
	log    *bytes.Buffer
	events *events
}

// start serves dir as upstream does, or with blobs by this package. Redirects go to another host.
func start(t *testing.T, dir string, ours, redirects, tls bool) *registry {
	t.Helper()
	r := &registry{log: new(bytes.Buffer), events: newEvents(t)}
	middleware := map[string][]configuration.Middleware{}
	if redirects {
		middleware["storage"] = []configuration.Middleware{{
			Name: "redirect", Options: configuration.Parameters{"baseurl": "https://blobs.example.org/below"},
		}}
	}
	if ours {
		middleware["registry"] = []configuration.Middleware{{
			Name: "blobserver", Options: configuration.Parameters{"redirect": true},
		}}
	}
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": dir},
			"delete":     configuration.Parameters{"enabled": true},
		},
		Middleware: middleware,
		Notifications: configuration.Notifications{Endpoints: []configuration.Endpoint{{
			Name: "events", URL: r.events.server.URL,
		}}},
	}
	config.HTTP.Secret = "secret"
	config.Catalog.MaxEntries = 100
	r.app = handlers.NewApp(t.Context(), config)
	handler := gorhandlers.CombinedLoggingHandler(r.log, r.app)
	if ours {
		handler = Handler(handler)
	}
	r.server = httptest.NewUnstartedServer(handler)
	if tls {
		r.server.EnableHTTP2 = true
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	t.Cleanup(r.server.Close)
	return r
}

// put stores a blob in the repository team/app.
func (r *registry) put(t *testing.T, content []byte) digest.Digest {
	t.Helper()
	dgst := digest.FromBytes(content)
	response, err := http.Post(r.server.URL+"/v2/team/app/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	request, err := http.NewRequestWithContext(
		t.Context(), http.MethodPut, response.Header.Get("Location")+"&digest="+dgst.String(), bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	response, err = http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("storing a blob: %s", response.Status)
	}
	return dgst
}

var (
	boundary  = regexp.MustCompile(`[0-9a-f]{60}`)
	timestamp = regexp.MustCompile(`\[[^]]*\]|127\.0\.0\.1:\d+`)
)

// answer is all that a client gets, but for what is random.
func (r *registry) answer(t *testing.T, method, target string, header http.Header) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, r.server.URL+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(request.Header, header)
	client := r.server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(request)
	if err != nil {
		return "no answer"
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	response.Header.Del("Date")
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s %d %v\n", response.Proto, response.Status, response.ContentLength, err)
	_ = response.Header.Write(&text)
	fmt.Fprintf(&text, "\n%d %s", len(body), digest.FromBytes(boundary.ReplaceAll(body, []byte("boundary"))))
	if len(body) < 1000 {
		fmt.Fprintf(&text, "\n%s", body)
	}
	return boundary.ReplaceAllString(text.String(), "boundary")
}

// Clients can't tell this package from upstream, over any protocol. The access log can't either, and
// who is notified is notified as often.
func TestAnswersAreUpstreams(t *testing.T) {
	dir := t.TempDir()
	blobs := map[string][]byte{
		"empty": {}, "one byte": {7}, "small": bytes.Repeat([]byte("blob "), 2000),
		"large": bytes.Repeat([]byte("0123456789abcdef"), 20_000),
	}
	store := start(t, dir, false, false, false)
	targets := []string{
		"/v2/team/app/blobs/" + digest.FromString("nothing").String(), "/v2/team/app/blobs/sha256:0123",
		"/v2/team/app/blobs/sha512:" + strings.Repeat("0", 128), "/v2/team/app/blobs/latest",
	}
	var etag string
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		dgst := store.put(t, blobs[name])
		targets = append(targets, "/v2/team/app/blobs/"+dgst.String(), "/v2/team/other/blobs/"+dgst.String())
		etag = `"` + dgst.String() + `"`
	}
	// A blob whose content is gone, as garbage collection can leave it for a moment.
	gone := store.put(t, []byte("gone"))
	if err := os.Remove(filepath.Join(dir, paths.BlobData(gone))); err != nil {
		t.Fatal(err)
	}
	targets = append(targets, "/v2/team/app/blobs/"+gone.String())
	headers := []http.Header{nil}
	for _, value := range []string{
		"bytes=0-0", "bytes=0-", "bytes=3-6", "bytes=-1", "bytes=-9999999", "bytes=9999-", "bytes=99999999-",
		"bytes=5-3", "bytes=0-1,3-4", "bytes=0-0,-1,2-3", "bytes=1-2,99999999-", "items=0-1", "bytes=", "bytes=a-b",
	} {
		headers = append(headers, http.Header{"Range": {value}})
	}
	for _, value := range []string{etag, "W/" + etag, `"other", ` + etag, `"other"`, "*"} {
		headers = append(headers,
			http.Header{"If-None-Match": {value}}, http.Header{"If-Match": {value}},
			http.Header{"If-Range": {value}, "Range": {"bytes=1-2"}},
			http.Header{"If-None-Match": {value}, "Range": {"bytes=1-2"}})
	}
	headers = append(headers, http.Header{"If-Modified-Since": {"Thu, 01 Jan 2026 00:00:00 GMT"}},
		http.Header{"Accept-Encoding": {"gzip"}}, http.Header{"Accept": {"application/json"}})
	for _, test := range []struct {
		name           string
		redirects, tls bool
	}{{"plain", false, false}, {"redirects", true, false}, {"HTTP/2", false, true}} {
		t.Run(test.name, func(t *testing.T) {
			upstream := start(t, dir, false, test.redirects, test.tls)
			ours := start(t, dir, true, test.redirects, test.tls)
			asked := 0
			for _, target := range targets {
				for _, header := range headers {
					for _, method := range []string{http.MethodGet, http.MethodHead} {
						asked++
						want := upstream.answer(t, method, target, header)
						if got := ours.answer(t, method, target, header); got != want {
							t.Fatalf("%s %s %v:\n%s\nupstream:\n%s", method, target, header, got, want)
						}
					}
				}
			}
			if asked < 300 {
				t.Errorf("only %d variants were tried", asked)
			}
			upstream.server.Close()
			ours.server.Close()
			if got, want := timestamp.ReplaceAllString(ours.log.String(), ""),
				timestamp.ReplaceAllString(upstream.log.String(), ""); got != want {
				t.Errorf("the access logs differ: %s\nupstream: %s", firstDifference(got, want), want[:200])
			}
			for _, one := range []*registry{upstream, ours} {
				if err := one.app.Shutdown(); err != nil { // it delivers all events
					t.Fatal(err)
				}
			}
			if len(upstream.events.got) == 0 && !test.redirects || !slices.Equal(ours.events.got, upstream.events.got) {
				t.Errorf("%d events, upstream has %d", len(ours.events.got), len(upstream.events.got))
			}
		})
	}
}

func firstDifference(got, want string) string {
	others := strings.Split(want, "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(others) || others[i] != line {
			return line
		}
	}
	return "lines are missing"
}

// What was deleted is not there any more, for the same repository and for another request.
func TestDeletedBlobs(t *testing.T) {
	r := start(t, t.TempDir(), true, false, false)
	target := "/v2/team/app/blobs/" + r.put(t, []byte("a blob")).String()
	if got := r.answer(t, http.MethodGet, target, nil); !strings.Contains(got, "200 OK") {
		t.Fatal(got)
	}
	if got := r.answer(t, http.MethodDelete, target, nil); !strings.Contains(got, "202 Accepted") {
		t.Fatal(got)
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if got := r.answer(t, method, target, nil); !strings.Contains(got, "404 Not Found") {
			t.Errorf("after it was deleted: %s", got)
		}
	}
}

// fromNetwork tells whether the network's writer was given a file, as sendfile needs it.
type fromNetwork struct {
	*httptest.ResponseRecorder
	files int
}

func (f *fromNetwork) ReadFrom(src io.Reader) (int64, error) {
	if limited, ok := src.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			f.files++
		}
	}
	return io.Copy(f.ResponseRecorder, src)
}

// Files reach the network as files, behind whatever counts what is written.
func TestFilesAreSent(t *testing.T) {
	r := start(t, t.TempDir(), true, false, false)
	blob := bytes.Repeat([]byte("blob "), 1_000_000)
	target := "/v2/team/app/blobs/" + r.put(t, blob).String()
	for header, want := range map[string][]byte{"": blob, "bytes=7-11": blob[7:12]} {
		network := &fromNetwork{ResponseRecorder: httptest.NewRecorder()}
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		request.Header.Set("Range", header)
		r.server.Config.Handler.ServeHTTP(network, request)
		if network.files != 1 || !bytes.Equal(network.Body.Bytes(), want) {
			t.Errorf("range %q: %d files, %d bytes, want 1 and %d", header, network.files, network.Body.Len(), len(want))
		}
	}
	if !strings.Contains(r.log.String(), fmt.Sprintf(" 200 %d ", len(blob))) {
		t.Errorf("the access log does not say what was sent: %s", r.log)
	}
}
