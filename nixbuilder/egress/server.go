package egress

import (
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
)

// A Server is the proxy of one evaluation.
type Server struct {
	gate     *Gate
	password string
	server   http.Server
	ctx      context.Context // of its connections
	close    context.CancelFunc

	mu      sync.Mutex
	refused string
}

// Server makes the proxy of one evaluation. It asks for a password unless that is empty. The caller
// must call Close.
func (g *Gate) Server(password string) *Server {
	s := &Server{gate: g, password: password}
	s.ctx, s.close = context.WithCancel(context.Background())
	s.server = http.Server{
		Handler:           s,
		ReadHeaderTimeout: greetingTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(io.Discard, "", 0),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
	return s
}

// Serve answers requests that come through a listener, in the background, until Close.
func (s *Server) Serve(listener net.Listener) {
	go func() { _ = s.server.Serve(&fewConns{listener, limit.NewSlots(maxConns)}) }()
}

// Environment are the variables by which Nix and git find the proxy at an address.
func (s *Server) Environment(address string) []string {
	at := url.URL{Scheme: "http", Host: address}
	if s.password != "" {
		at.User = url.UserPassword("evaluation", s.password)
	}
	var all []string
	for _, name := range []string{"http_proxy", "https_proxy", "all_proxy"} {
		all = append(all, name+"="+at.String())
	}
	return all
}

// Close ends the listener and all connections.
func (s *Server) Close() {
	s.close()
	_ = s.server.Close()
}

// Refused is the last thing that was not let through, as text for clients; empty if there is none.
func (s *Server) Refused() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.knows(r) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="evaluation"`)
		http.Error(w, "this proxy is for an evaluation", http.StatusProxyAuthRequired)
		return
	}
	switch {
	case r.Method == http.MethodConnect:
		s.tunnel(w, r)
	case r.URL.Scheme == "http" && r.URL.Hostname() != "":
		s.forward(w, r)
	default:
		http.Error(w, "this is a proxy for http and https", http.StatusBadRequest)
	}
}

// knows tells whether a request has the password.
func (s *Server) knows(r *http.Request) bool {
	basic := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	_, password, _ := basic.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(password), []byte(s.password)) == 1
}

// fail answers a request that failed.
func (s *Server) fail(w http.ResponseWriter, err error) {
	if refused := refusal(""); errors.As(err, &refused) {
		s.mu.Lock()
		s.refused = string(refused)
		s.mu.Unlock()
		http.Error(w, string(refused), http.StatusForbidden)
		return
	}
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// forward passes a request of plain http on, and the answer back. If that is a redirection, the
// client makes a new request.
func (s *Server) forward(w http.ResponseWriter, r *http.Request) {
	wanted := newEndpoint("http", r.URL.Hostname(), r.URL.Port())
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return s.gate.dial(ctx, wanted) }
	transport := &http.Transport{
		DialContext:           dial,
		DisableKeepAlives:     true,
		DisableCompression:    true,
		ResponseHeaderTimeout: idleTime,
	}
	if proxy, err := s.gate.proxyOf(wanted); err != nil || proxy != nil {
		if err == nil {
			_, err = s.gate.admit(r.Context(), wanted)
			err = s.gate.forProxy(err)
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		transport.Proxy, transport.DialContext = http.ProxyURL(proxy), nil
	}
	(&httputil.ReverseProxy{
		Transport:    transport,
		Rewrite:      func(*httputil.ProxyRequest) {}, // headers of the connection go, and no others come
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { s.fail(w, err) },
		ErrorLog:     s.server.ErrorLog,
	}).ServeHTTP(w, r)
}

// tunnel connects a client to what it asks for.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		http.Error(w, "a host and a port are missing", http.StatusBadRequest)
		return
	}
	there, err := s.gate.dial(r.Context(), newEndpoint("https", host, port))
	if err != nil {
		s.fail(w, err)
		return
	}
	defer there.Close()
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.fail(w, err)
		return
	}
	defer here.Close()
	stop := context.AfterFunc(s.ctx, func() {
		here.Close()
		there.Close()
	})
	defer stop()
	if _, err := io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	alive := func() {
		until := time.Now().Add(idleTime)
		_ = errors.Join(here.SetDeadline(until), there.SetDeadline(until))
	}
	var both sync.WaitGroup
	for _, way := range []struct {
		to   net.Conn
		from io.Reader
	}{{there, buffered}, {here, there}} {
		both.Go(func() {
			_, _ = io.Copy(way.to, activity{way.from, alive})
			if half, ok := way.to.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			} else {
				way.to.Close()
			}
		})
	}
	both.Wait()
}

// activity is a reader that calls alive before each read.
type activity struct {
	io.Reader
	alive func()
}

func (a activity) Read(p []byte) (int, error) {
	a.alive()
	return a.Reader.Read(p)
}

// fewConns accepts a connection when a slot is free for it.
type fewConns struct {
	net.Listener
	slots limit.Slots
}

func (f *fewConns) Accept() (net.Conn, error) {
	release, err := f.slots.Acquire(context.Background())
	if err != nil {
		return nil, err
	}
	conn, err := f.Listener.Accept()
	if err != nil {
		release()
		return nil, err
	}
	return &slottedConn{conn, release}, nil
}

// A slottedConn gives its slot back when it is closed.
type slottedConn struct {
	net.Conn
	release func()
}

func (c *slottedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
