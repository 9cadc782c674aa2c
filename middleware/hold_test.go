package middleware

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/reference"
)

func forwarded(what, value string) map[string]string {
	return map[string]string{"X-Forwarded-" + what: value}
}

func TestLocation(t *testing.T) {
	named, err := reference.WithName("shell/git")
	if err != nil {
		t.Fatal(err)
	}
	const path = "/v2/shell/git/manifests/latest"
	for _, test := range []struct {
		name, target string // empty: path
		host, peer   string // empty: registry.example, a trusted proxy
		tls          bool
		header       map[string]string
		config       configuration.HTTP
		want         string
	}{
		{name: "of the request", want: "http://registry.example" + path + "?hold=1"},
		{name: "with a port", host: "127.0.0.1:5000", want: "http://127.0.0.1:5000" + path + "?hold=1"},
		{name: "IPv6", host: "[::1]:5000", want: "http://[::1]:5000" + path + "?hold=1"},
		{name: "TLS", tls: true, want: "https://registry.example" + path + "?hold=1"},
		{
			name: "behind a proxy",
			header: map[string]string{
				"X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example:8443, inner.example",
			},
			want: "https://public.example:8443" + path + "?hold=1",
		},
		{
			name: "behind a proxy of RFC 7239", header: map[string]string{"Forwarded": "proto=https;host=public.example"},
			want: "https://public.example" + path + "?hold=1",
		},
		{
			name: "below a path that the registry knows of", target: "/registry" + path,
			config: configuration.HTTP{Prefix: "/registry/"}, want: "http://registry.example/registry" + path + "?hold=1",
		},
		{
			name: "as configured", config: configuration.HTTP{Host: "https://public.example/registry/"},
			header: map[string]string{"X-Forwarded-Host": "another.example"},
			want:   "https://public.example/registry" + path + "?hold=1",
		},
		{
			name: "relative", target: path + "?ns=a", host: "a,b", config: configuration.HTTP{RelativeURLs: true},
			want: path + "?ns=a&hold=1",
		},
		{
			name: "relative to a proxy that adds the path", target: "/registry" + path,
			config: configuration.HTTP{RelativeURLs: true, Prefix: "/registry/"}, want: path + "?hold=1",
		},
		{
			name: "as configured, and relative", config: configuration.HTTP{Host: "https://a.example", RelativeURLs: true},
			want: "https://a.example" + path + "?hold=1",
		},
		{
			name: "other parameters", target: path + "?ns=docker.io&hold=2&x=%20%2F;y&hold=7&%68old=1&&z",
			want: "http://registry.example" + path + "?ns=docker.io&x=%20%2F;y&z&hold=3",
		},
		{
			name: "a parameter that can't be parsed", target: path + "?%zz=1",
			want: "http://registry.example" + path + "?%zz=1&hold=1",
		},

		{
			name: "as configured, whoever asks", config: configuration.HTTP{Host: "https://a.example"},
			peer: "192.0.2.1:99", header: forwarded("Host", "evil.example"),
			want: "https://a.example" + path + "?hold=1",
		},
		{name: "no proxy", peer: "192.0.2.1:99", want: "http://registry.example" + path + "?hold=1"},

		// No plain URL, or nobody's to say: the client stays where it is.
		{name: "a forged host", peer: "192.0.2.1:99", header: forwarded("Host", "evil.net"), want: path + "?hold=1"},
		{name: "a forged scheme", peer: "192.0.2.1:99", header: forwarded("Proto", "https"), want: path + "?hold=1"},
		{
			name: "forged by RFC 7239", peer: "[2001:db8::1]:99", header: map[string]string{"Forwarded": "host=evil.example"},
			want: path + "?hold=1",
		},
		{name: "no host", host: "none", want: path + "?hold=1"},
		{name: "no host, below a path", target: "/x" + path, host: "none", want: "/x" + path + "?hold=1"},
		{name: "a user", host: "user@evil.example", want: path + "?hold=1"},
		{name: "no host but a list", host: "a.example,b.example", want: path + "?hold=1"},
		{name: "a long host", host: strings.Repeat("a", 300), want: path + "?hold=1"},
		{name: "a forwarded path", header: forwarded("Host", "evil.example/v2"), want: path + "?hold=1"},
		{name: "a forwarded query", header: forwarded("Host", "evil.example?"), want: path + "?hold=1"},
		{name: "a forwarded fragment", header: forwarded("Host", "evil.example#"), want: path + "?hold=1"},
		{name: "a forwarded URL", header: forwarded("Host", "http://evil.example"), want: path + "?hold=1"},
		{name: "spaces", header: forwarded("Host", "evil example"), want: path + "?hold=1"},
		{name: "another scheme", header: forwarded("Proto", "javascript"), want: path + "?hold=1"},
		{name: "two schemes", header: forwarded("Proto", "https,http"), want: path + "?hold=1"},
		{name: "a scheme with a host", header: forwarded("Proto", "http://evil.example/"), want: path + "?hold=1"},
		{name: "a scheme with a path", header: forwarded("Proto", "http://evil.example/x"), want: path + "?hold=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := path
			if test.target != "" {
				target = test.target
			}
			request := httptest.NewRequest(http.MethodGet, target, nil)
			switch test.host {
			case "":
				request.Host = "registry.example"
			case "none":
				request.Host = ""
			default:
				request.Host = test.host
			}
			if test.tls {
				request.TLS = new(tls.ConnectionState)
			}
			for key, value := range test.header {
				request.Header.Set(key, value)
			}
			if request.RemoteAddr = test.peer; test.peer == "" {
				request.RemoteAddr = "127.0.0.1:99"
			}
			service := &Service{
				config:  &configuration.Configuration{HTTP: test.config},
				proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			}
			got := service.location(named, pull{
				reading: reading{request: request, reference: "latest"}, redirects: redirectsOf(request.URL),
			})
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func FuzzNextQuery(f *testing.F) {
	for _, seed := range []string{"", "hold=1", "a=b&hold=1&c", "&&", "%68old=2", "hold;hold=3", "=&=hold"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		next := nextQuery(query, 4)
		if got := redirectsOf(&url.URL{RawQuery: next}); got != 4 {
			t.Errorf("%q after %q counts %d", next, query, got)
		}
		if again := nextQuery(next, 4); again != next {
			t.Errorf("%q becomes %q", next, again)
		}
	})
}
