package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

const (
	dialTime     = 10 * time.Second // for one address
	greetingTime = 30 * time.Second // for a proxy's answer, and for the header of a request
	idleTime     = 5 * time.Minute
	// maxConns is how many connections one evaluation may have. Nix makes 25 at a time.
	maxConns = 64
	// maxAddresses is how many addresses of one name are tried.
	maxAddresses = 4
)

// A Gate makes the connections that Rules admit. It is safe for concurrent use.
type Gate struct {
	Rules
	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)
	own      func() ([]netip.Addr, error)
	upstream func(*http.Request) (*url.URL, error) // the proxy of a request
}

// New makes a Gate for a list as nix.alloweduris has it. Where this process's environment has a
// proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), what the Gate admits goes through that.
func New(uris []string) *Gate {
	return &Gate{
		Rules:    NewRules(uris),
		lookup:   net.DefaultResolver.LookupNetIP,
		own:      ownAddresses,
		upstream: http.ProxyFromEnvironment,
	}
}

// A refusal says what a Gate does not let through, for clients to read.
type refusal string

func (r refusal) Error() string { return string(r) }

// admit returns the addresses at which an endpoint may be reached, or why it may not be.
func (g *Gate) admit(ctx context.Context, e endpoint) ([]netip.Addr, error) {
	named := g.named[e]
	if e.scheme == "http" && !named && !g.any["http"] {
		return nil, refusal(fmt.Sprintf("nix.alloweduris of this registry does not let it reach %v", e))
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	addresses, err := g.lookup(ctx, "ip", e.host)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", e.host, err)
	}
	if !named {
		own, err := g.own()
		if err != nil {
			return nil, fmt.Errorf("asking for this machine's addresses: %w", err)
		}
		private := func(a netip.Addr) bool { return !isPublic(a) || slices.Contains(own, a.Unmap()) }
		if slices.ContainsFunc(addresses, private) || len(addresses) == 0 {
			return nil, refusal(fmt.Sprintf(
				"nix.alloweduris of this registry does not let it reach %v, which is no public address: "+
					"its host can be named there", e,
			))
		}
	}
	return addresses[:min(len(addresses), maxAddresses)], nil
}

// dial connects to an endpoint that the list admits, by the operator's proxy if there is one for
// the endpoint.
func (g *Gate) dial(ctx context.Context, e endpoint) (net.Conn, error) {
	proxy, err := g.proxyOf(e)
	if err != nil {
		return nil, err
	}
	addresses, err := g.admit(ctx, e)
	if proxy != nil {
		if err := g.forProxy(err); err != nil {
			return nil, err
		}
		return connect(ctx, proxy, e)
	}
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, address := range addresses {
		target := net.JoinHostPort(address.String(), e.port)
		conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", target)
		if err == nil {
			return conn, nil
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

// forProxy returns the error of admit that holds if the operator's proxy makes the connection. The
// proxy may know names that are unknown here.
func (g *Gate) forProxy(err error) error {
	if unknown := (*net.DNSError)(nil); errors.As(err, &unknown) {
		return nil
	}
	return err
}

// proxyOf is the operator's proxy for an endpoint, nil if there is none.
func (g *Gate) proxyOf(e endpoint) (*url.URL, error) {
	proxy, err := g.upstream(&http.Request{URL: &url.URL{Scheme: e.scheme, Host: e.address()}})
	if err != nil {
		return nil, fmt.Errorf("finding the proxy for %v: %w", e, err)
	}
	if proxy != nil && proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, fmt.Errorf(
			"the proxy for %v is %s, and what package sets fetch can go through one of http or https only", e,
			proxy.Redacted(),
		)
	}
	return proxy, nil
}

// connect makes a connection by a proxy.
func connect(ctx context.Context, proxy *url.URL, e endpoint) (conn net.Conn, err error) {
	at := newEndpoint(proxy.Scheme, proxy.Hostname(), proxy.Port())
	if conn, err = (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", at.address()); err != nil {
		return nil, fmt.Errorf("connecting to the proxy: %w", err)
	}
	defer func() {
		if err != nil {
			conn.Close()
			err = fmt.Errorf("asking the proxy %s for %v: %w", at.address(), e, err)
		}
	}()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(greetingTime)); err != nil {
		return nil, err
	}
	if at.scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: at.host, MinVersion: tls.VersionTLS12})
	}
	request := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Opaque: e.address()},
		Host:   e.address(),
		Header: make(http.Header),
	}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
		request.Header["Proxy-Authorization"] = request.Header["Authorization"]
		request.Header.Del("Authorization")
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	if reader.Buffered() > 0 {
		// The endpoint itself would wait for the client to speak.
		return nil, errors.New("it says more than it was asked for")
	}
	return conn, conn.SetDeadline(time.Time{})
}
