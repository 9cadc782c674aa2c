package middleware

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
)

// requestContext carries what the registry's own does.
type requestContext struct {
	context.Context
	values map[string]any
}

func (c requestContext) Value(key any) any {
	if name, ok := key.(string); ok {
		return c.values[name]
	}
	return c.Context.Value(key)
}

func asked(tag, by string, accepts accepts) pull {
	return pull{reading: reading{reference: tag}, client: client{name: by}, accepts: accepts}
}

func TestPullOf(t *testing.T) {
	for _, test := range []struct {
		name, method, target, reference string
		user, address                   string
		accept                          []string
		isPull                          bool
		want                            pull
	}{
		{
			name: "GET by tag", method: "GET", reference: "latest", address: "192.0.2.1:4711",
			accept: []string{v1.MediaTypeImageManifest}, isPull: true,
			want: asked("latest", "192.0.2.1", accepts{manifest: true}),
		},
		{
			name: "HEAD by tag", method: "HEAD", reference: "v1", address: "[2001:db8::1]:4711",
			accept: []string{v1.MediaTypeImageManifest}, isPull: true,
			want: asked("v1", "2001:db8::/64", accepts{manifest: true}),
		},
		{
			name: "a user is who matters", method: "GET", reference: "v1", user: "ada",
			address: "192.0.2.1:4711", accept: []string{v1.MediaTypeImageIndex}, isPull: true,
			want: asked("v1", "ada", accepts{index: true}),
		},
		{
			name: "an address without a port", method: "GET", reference: "v1", address: "192.0.2.1",
			accept: []string{v1.MediaTypeImageIndex}, isPull: true,
			want: asked("v1", "192.0.2.1", accepts{index: true}),
		},
		{
			name: "sent round", method: "GET", target: "/?hold=3", reference: "v1",
			accept: []string{v1.MediaTypeImageIndex}, isPull: true,
			want: pull{accepts: accepts{index: true}, reading: reading{reference: "v1"}, redirects: 3},
		},
		{
			name: "nonsense for a counter", method: "GET", target: "/?hold=-3", reference: "v1",
			accept: []string{v1.MediaTypeImageIndex}, isPull: true,
			want: pull{accepts: accepts{index: true}, reading: reading{reference: "v1"}},
		},
		{
			name: "before OCI", method: "GET", reference: "v1",
			accept: []string{dockerType + ", application/json"}, isPull: true,
			want: pull{reading: reading{reference: "v1"}, accepts: accepts{schema2: true}},
		},
		{
			name: "says nothing", method: "GET", reference: "v1", isPull: true,
			want: pull{reading: reading{reference: "v1"}},
		},
		{
			name: "takes anything", method: "GET", reference: "v1", accept: []string{"*/*"}, isPull: true,
			want: pull{reading: reading{reference: "v1"}},
		},
		{
			name: "takes both, on two lines", method: "GET", reference: "v1",
			accept: []string{dockerType, v1.MediaTypeImageManifest + ";q=0.5"}, isPull: true,
			want: pull{accepts: accepts{manifest: true, schema2: true}, reading: reading{reference: "v1"}},
		},
		{
			name: "takes something else", method: "GET", reference: "v1", accept: []string{"text/html"},
			isPull: true, want: pull{reading: reading{reference: "v1"}},
		},
		{name: "PUT", method: "PUT", reference: "latest"},
		{name: "DELETE", method: "DELETE", reference: "latest"},
		{name: "no manifest", method: "GET"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := test.target
			if target == "" {
				target = "/"
			}
			request := httptest.NewRequest(test.method, target, nil)
			request.Header["Accept"] = test.accept
			request.RemoteAddr = test.address
			response := httptest.NewRecorder()
			ctx := requestContext{t.Context(), map[string]any{
				"http.request":   request,
				"http.response":  http.ResponseWriter(response),
				"vars.reference": test.reference,
				"auth.user.name": test.user,
			}}
			read, ok := readingOf(ctx)
			if ok = ok && read.reference != ""; ok != test.isPull {
				t.Fatalf("is a pull: %t, want %t", ok, test.isPull)
			}
			if !ok {
				return
			}
			got := (&Service{config: new(configuration.Configuration)}).pullOf(ctx, read)
			if got.reference != test.want.reference || got.client.name != test.want.client.name ||
				got.accepts != test.want.accepts || got.redirects != test.want.redirects {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
	if _, ok := readingOf(t.Context()); ok {
		t.Error("a context without a request is taken for a pull")
	}
}

func TestIsForeign(t *testing.T) {
	for _, test := range []struct {
		name, site, origin string
		want               bool
	}{
		{name: "a container tool"},
		{name: "the registry's own page", site: "same-origin"},
		{name: "an address that somebody typed", site: "none"},
		{name: "a page of another site", site: "cross-site", want: true},
		{name: "a page of a neighbour", site: "same-site", want: true},
		{name: "a page of another site that wants to read it", origin: "https://evil.example", want: true},
		{name: "the same host on another port", origin: "http://registry.example.org:81", want: true},
		{name: "a page without an origin", origin: "null", want: true},
		{name: "no URL", origin: "::", want: true},
		{name: "the registry's own page, of an old browser", origin: "http://Registry.example.org"},
		{name: "behind a proxy that changes the host", site: "same-origin", origin: "https://public.example.org"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodGet, "http://registry.example.org/", nil)
			for key, value := range map[string]string{"Sec-Fetch-Site": test.site, "Origin": test.origin} {
				if value != "" {
					request.Header.Set(key, value)
				}
			}
			if got := isForeign(request); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	git := newPulling(t)
	for _, test := range []struct {
		name      string
		err       error
		redirects int
		status    int
		header    http.Header
		text      string
	}{
		{
			name: "not found", err: status.Errorf(status.NotFound, "there is no package gti"),
			status: 404, text: "there is no package gti",
		},
		{name: "denied", err: status.Errorf(status.Denied, "unfree"), status: 403, text: "unfree"},
		{
			name: "busy", err: status.Errorf(status.Busy, "later"), status: 429,
			header: http.Header{"Retry-After": {"10"}}, text: "later",
		},
		{
			name: "unavailable", err: status.Errorf(status.Unavailable, "later"), status: 503,
			header: http.Header{"Retry-After": {"30"}}, text: "later",
		},
		{
			name: "interrupted", err: status.Errorf(status.Interrupted, "killed"), status: 503,
			header: http.Header{"Retry-After": {"60"}}, text: "killed",
		},
		{name: "damaged", err: status.Errorf(status.Damaged, "no archive"), status: 403, text: "no archive"},
		{
			name: "wrapped", err: errors.Join(status.Errorf(status.Denied, "unfree")), status: 403,
			text: "unfree",
		},
		{
			name: "held long enough", err: errHold, redirects: 9, status: 503,
			header: http.Header{"Retry-After": {"30"}}, text: "still being built",
		},
		{
			name: "a counter that somebody made up", err: errHold, redirects: 1 << 40, status: 503,
			header: http.Header{"Retry-After": {"30"}},
		},
		{name: "read-only", err: errReadOnly, status: 404, text: "read-only"},
		{
			name: "held long enough, of a build", err: buildError{"7f3a", errHold}, redirects: 9, status: 503,
			header: http.Header{"Retry-After": {"30"}}, text: "ask again (build 7f3a)",
		},
		{
			name: "the operator's, of a build", err: buildError{"7f3a", errors.New("open /var/lib/secret: no")},
			status: 503, header: http.Header{"Retry-After": {"30"}}, text: "ask again later (build 7f3a)",
		},
		{
			name: "forbidden is not a matter of passwords", err: status.Errorf(status.Denied, "building git failed"),
			status: 403, text: `"not a login problem: building git failed"`,
		},
		{
			name: "anything else is the operator's", err: errors.New("open /var/lib/secret: no"), status: 503,
			header: http.Header{"Retry-After": {"30"}}, text: "registry's log",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			response := httptest.NewRecorder()
			p := pull{reading: reading{response: response, reference: "latest"}, redirects: test.redirects}
			err := git.explain(home{Repository: git.repo}, p, test.err)
			header := response.Header()
			if err := errcode.ServeJSON(response, err); err != nil {
				t.Fatal(err)
			}
			if response.Code != test.status {
				t.Errorf("status %d, want %d", response.Code, test.status)
			}
			for key := range map[string]bool{"Retry-After": true, "Location": true, "Cache-Control": true} {
				if header.Get(key) != test.header.Get(key) {
					t.Errorf("%s: %q, want %q", key, header.Get(key), test.header.Get(key))
				}
			}
			if body := response.Body.String(); !strings.Contains(body, test.text) ||
				strings.Contains(body, "/var/lib") {
				t.Errorf("the answer is %s", body)
			}
		})
	}
}
