package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

func TestIsPublic(t *testing.T) {
	for _, test := range []struct {
		public    bool
		addresses string
	}{
		{
			true,
			"1.1.1.1 9.255.255.255 100.63.0.1 172.15.0.1 172.32.0.1 192.167.0.1 223.255.255.254 2606:4700::1111 2a00:1450::1 64:ff9b::101:101 ::ffff:1.1.1.1 2002:101:101::1",
		},
		{
			false,
			"0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.168.0.1 198.18.0.1 224.0.0.1 255.255.255.255",
		},
		{
			false,
			":: ::1 ::127.0.0.1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1 100::1 2001:db8::1 2001::7f00:1 64:ff9b:1::a00:1",
		},
		{
			false,
			"::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::a00:1 2002:7f00:1::1 2002:a9fe:a9fe::",
		},
	} {
		for _, text := range strings.Fields(test.addresses) {
			if got := isPublic(netip.MustParseAddr(text)); got != test.public {
				t.Errorf("%s is public: %v", text, got)
			}
		}
	}
}

// gate is a Gate for a list in a world of few names, on a machine with one public address.
func gate(uris ...string) *Gate {
	g := New(uris)
	g.upstream = func(*http.Request) (*url.URL, error) { return nil, nil }
	g.own = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("8.8.4.4")}, nil }
	g.lookup = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		names := map[string]string{
			"public.example": "1.1.1.1 2606:4700::1111", "inner.example": "10.0.0.1",
			"mixed.example": "1.1.1.1 127.0.0.1", "localhost": "127.0.0.1", "self.example": "8.8.4.4",
		}
		if address, err := netip.ParseAddr(host); err == nil {
			return []netip.Addr{address}, nil
		}
		var all []netip.Addr
		for _, text := range strings.Fields(names[host]) {
			all = append(all, netip.MustParseAddr(text))
		}
		if len(all) == 0 {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return all, nil
	}
	return g
}

func TestAdmit(t *testing.T) {
	for _, test := range []struct {
		list            string
		admitted, under string // endpoints, and those that are refused
	}{
		{
			"https://",
			"https://public.example https://public.example:8443 https://1.1.1.1 https://[2606:4700::1111]",
			"http://public.example https://inner.example https://mixed.example https://localhost https://LOCALHOST. https://127.0.0.1:5000 https://[::ffff:127.0.0.1] https://self.example http://169.254.169.254",
		},
		{
			"https:// http://", "http://public.example https://public.example",
			"http://inner.example http://localhost:8080 http://169.254.169.254",
		},
		{
			"https://inner.example/ http://127.0.0.1:8080/sets/ git+http://public.example/",
			"https://inner.example https://INNER.example.:443 http://127.0.0.1:8080 http://public.example https://public.example",
			"http://inner.example https://inner.example:8443 http://127.0.0.1 http://127.0.0.1:8081 https://127.0.0.1:8080 http://localhost:8080 http://1.1.1.1",
		},
		{"path:/srv git+ssh://inner.example/", "https://public.example", "https://inner.example http://public.example"},
	} {
		g := gate(strings.Fields(test.list)...)
		for _, text := range strings.Fields(test.admitted + " " + test.under) {
			parsed, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			addresses, err := g.admit(t.Context(), newEndpoint(parsed.Scheme, parsed.Hostname(), parsed.Port()))
			if strings.Contains(" "+test.admitted+" ", " "+text+" ") {
				if err != nil || len(addresses) == 0 {
					t.Errorf("%s: %s: %v", test.list, text, err)
				}
			} else if refused := refusal(""); !errors.As(err, &refused) {
				t.Errorf("%s: %s is let through, or %v", test.list, text, err)
			}
		}
	}
}

// start serves a Gate, and returns a client that uses it.
func start(t *testing.T, g *Gate, password, says string, trusted *x509.Certificate) (*Server, *http.Client) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := g.Server(password)
	t.Cleanup(s.Close)
	s.Serve(listener)
	proxy := &url.URL{Scheme: "http", Host: listener.Addr().String()}
	if says != "" {
		proxy.User = url.UserPassword("evaluation", says)
	}
	roots := x509.NewCertPool()
	if trusted != nil {
		roots.AddCert(trusted)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return s, &http.Client{Transport: transport}
}

func get(t *testing.T, client *http.Client, url string) (string, error) {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// Connections reach what the list names, and from there nothing that it does not name.
func TestServer(t *testing.T) {
	secrets := 0
	inner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		secrets++
		fmt.Fprint(w, "secret")
	}))
	defer inner.Close()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, inner.URL, http.StatusFound)
			return
		}
		fmt.Fprint(w, "hello", r.Header.Get("X-Forwarded-For"), r.Header.Get("Proxy-Authorization"))
	})
	plain, safe := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer safe.Close()
	s, client := start(t, gate("https://", plain.URL+"/", safe.URL+"/"), "pass", "pass", safe.Certificate())
	for _, url := range []string{plain.URL, safe.URL} {
		if text, err := get(t, client, url); text != "hello" || err != nil {
			t.Errorf("%s: %q, %v", url, text, err)
		}
		if text, err := get(t, client, url+"/away"); err == nil || strings.Contains(text, "secret") || secrets > 0 {
			t.Errorf("%s: where that leads, %q is read: %v", url, text, err)
		}
		if want := "let it reach " + inner.URL; !strings.Contains(s.Refused(), want) {
			t.Errorf("refused is %q, want %q", s.Refused(), want)
		}
	}
	for _, says := range []string{"", "other"} {
		_, stranger := start(t, gate(plain.URL+"/", safe.URL+"/"), "pass", says, safe.Certificate())
		for _, url := range []string{plain.URL, safe.URL} {
			if text, err := get(t, stranger, url); err == nil || strings.Contains(text, "hello") {
				t.Errorf("with the password %q, %s is read: %q", says, url, text)
			}
		}
	}
}

// Connections end with their evaluation.
func TestCloseEndsTunnels(t *testing.T) {
	ended := make(chan error, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		ended <- err
	}()
	s, _ := start(t, gate("https://"+listener.Addr().String()+"/"), "", "", nil)
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(own)
	conn, err := net.Dial("tcp", own.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", listener.Addr())
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Fatalf("%q, %v", line, err)
	}
	s.Close()
	<-ended
}

// The operator's proxy gets only what is admitted. It may know names that are unknown here.
func TestUpstream(t *testing.T) {
	var asked []string
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		basic := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		user, password, _ := basic.BasicAuth()
		asked = append(asked, fmt.Sprintf("%s %s %s:%s", r.Method, r.Host, user, password))
		if r.Method != http.MethodConnect {
			fmt.Fprint(w, "by proxy")
			return
		}
		http.Error(w, "no further", http.StatusTeapot)
	}))
	defer upstream.Close()
	g := gate("https://", "http://elsewhere.example/", "http://inner.example/")
	g.upstream = func(r *http.Request) (*url.URL, error) {
		return url.Parse(strings.Replace(upstream.URL, "://", "://user:word@", 1))
	}
	_, client := start(t, g, "", "", nil)
	for _, url := range []string{"http://elsewhere.example/x", "http://inner.example/"} {
		if text, err := get(t, client, url); text != "by proxy" || err != nil {
			t.Errorf("%s: %q, %v", url, text, err)
		}
	}
	for _, url := range []string{
		"https://public.example/", "https://elsewhere.example/", "https://localhost/", "http://169.254.169.254/",
		"https://10.0.0.1/",
	} {
		if text, err := get(t, client, url); err == nil {
			t.Errorf("%s: %q", url, text)
		}
	}
	want := []string{
		"GET elsewhere.example user:word", "GET inner.example user:word",
		"CONNECT public.example:443 user:word", "CONNECT elsewhere.example:443 user:word",
	}
	if strings.Join(asked, ", ") != strings.Join(want, ", ") {
		t.Errorf("the proxy was asked for %q, want %q", asked, want)
	}
}

// git itself refuses URLs that no entry begins, before it connects to anything.
func TestGitEnvironment(t *testing.T) {
	needs.Tool(t, "git")
	dir := t.TempDir()
	for _, name := range []string{"own/repository", "elsewhere"} {
		if output, err := exec.Command("git", "init", "--quiet", "--bare", dir+"/"+name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	rules := NewRules([]string{"git+http://127.0.0.1:1/sets/", "path:/srv", "https://"})
	for _, test := range []struct {
		url  string
		own  []string
		want string // in git's message; empty: it succeeds
	}{
		{url: "http://127.0.0.1:1/sets/one", want: "connect"},
		{url: "https://127.0.0.1:1/other", want: "connect"},
		{url: "http://127.0.0.1:1/other", want: "not allowed"},
		{url: "http://127.0.0.2:1/sets/one", want: "not allowed"},
		{url: "ssh://127.0.0.1:1/sets/one", want: "not allowed"},
		{url: "127.0.0.1:sets/one", want: "not allowed"},
		{url: "git://127.0.0.1:1/sets/one", want: "not allowed"},
		{url: "ext::sh -c date", want: "not allowed"},
		{url: dir + "/own/repository", want: "not allowed"},
		{url: dir + "/own/repository", own: []string{dir + "/own"}},
		{url: dir + "/elsewhere", own: []string{dir + "/own"}, want: "not allowed"},
		{url: "file://" + dir + "/elsewhere", own: []string{dir + "/own"}, want: "not allowed"},
	} {
		command := exec.Command("git", "ls-remote", "--", test.url)
		command.Env = append(
			rules.GitEnvironment(test.own...), "PATH="+os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		)
		output, err := command.CombinedOutput()
		if (err == nil) != (test.want == "") || !strings.Contains(string(output), test.want) {
			t.Errorf("%s: %v: %s, want %q", test.url, err, output, test.want)
		}
	}
}
