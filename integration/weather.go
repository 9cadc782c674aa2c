package integration

import (
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// How a network is.
type weather string

const (
	fair   weather = "fair"
	cut    weather = "cut"    // connections end at once, those that there are too
	mute   weather = "mute"   // what is sent waits until the weather is fair
	drips  weather = "drips"  // a byte at a time comes through
	breaks weather = "breaks" // a connection ends after some hundred bytes of an answer
)

// How it drips and breaks.
const (
	dripPause  = 20 * time.Millisecond
	breakBytes = 700
)

// A network is what is between a registry and a server: a proxy whose weather changes. It takes no
// right, and no other test has a part in it, as with the kernel's own.
type network struct {
	listener net.Listener
	target   string // host:port

	mu      sync.Mutex
	now     weather
	changed chan struct{} // closed when now is another, and replaced
	conns   map[net.Conn]bool
	used    chan struct{} // holds one when something has come since the weather turned
}

// networkTo is one to the server of a URL.
func networkTo(t testing.TB, server string) *network {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{
		listener: listener, target: to.Host, now: fair, changed: make(chan struct{}),
		conns: make(map[net.Conn]bool), used: make(chan struct{}, 1),
	}
	t.Cleanup(func() {
		listener.Close()
		n.turn(cut) // so that nobody waits any more
	})
	go n.serve()
	return n
}

// url is the address of a test server behind the network.
func (n *network) url(server *httptest.Server) string {
	return strings.Replace(server.URL, n.target, n.listener.Addr().String(), 1)
}

// turn changes the weather.
func (n *network) turn(to weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = to
	select {
	case <-n.used:
	default:
	}
	close(n.changed)
	n.changed = make(chan struct{})
	if to == cut {
		for conn := range n.conns {
			conn.Close()
		}
	}
}

func (n *network) weather() (now weather, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now, n.changed
}

// use notes that something comes.
func (n *network) use() {
	select {
	case n.used <- struct{}{}:
	default:
	}
}

// reached waits until something has come since the weather turned.
func (n *network) reached(t testing.TB) {
	t.Helper()
	select {
	case <-n.used:
	case <-time.After(commandTime):
		t.Error("nobody needs the network")
	}
}

func (n *network) serve() {
	for {
		conn, err := n.listener.Accept()
		if err != nil {
			return
		}
		n.use()
		go n.connect(conn)
	}
}

// note remembers a connection. It is false if the weather has ended it.
func (n *network) note(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.now == cut {
		conn.Close()
		return false
	}
	n.conns[conn] = true
	return true
}

func (n *network) forget(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, conn)
	conn.Close()
}

func (n *network) connect(client net.Conn) {
	if !n.note(client) {
		return
	}
	defer n.forget(client)
	server, err := net.Dial("tcp", n.target)
	if err != nil || !n.note(server) {
		return
	}
	defer n.forget(server)
	go n.pass(server, client, false)
	n.pass(client, server, true)
}

// pass passes on what one side sends. Answers break.
func (n *network) pass(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	buffer, passed := make([]byte, 32<<10), 0
	for {
		read, err := from.Read(buffer)
		if read > 0 {
			n.use()
		}
		for rest := buffer[:read]; len(rest) > 0; {
			now, changed := n.weather()
			part := len(rest)
			switch {
			case now == mute:
				<-changed
				continue
			case now == drips:
				part = 1
				time.Sleep(dripPause)
			case now == breaks && answers:
				part = min(part, max(0, breakBytes-passed))
				if part == 0 {
					return
				}
			}
			if _, err := to.Write(rest[:part]); err != nil {
				return
			}
			passed += part
			rest = rest[part:]
		}
		if err != nil {
			if half, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
				_ = half.CloseWrite()
			}
			return
		}
	}
}
