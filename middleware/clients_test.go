package middleware

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

func TestClientOf(t *testing.T) {
	defaults, err := defaults().Build.proxies()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, peer string
		forwarded  []string
		real       string
		trusted    []netip.Prefix
		want       string
	}{
		{name: "no proxy", peer: "192.0.2.1:4711", trusted: defaults, want: "192.0.2.1"},
		{
			name: "who is no proxy says what he likes", peer: "192.0.2.1:4711",
			forwarded: []string{"198.51.100.7"}, trusted: defaults, want: "192.0.2.1",
		},
		{
			name: "a proxy", peer: "10.1.2.3:4711", forwarded: []string{"198.51.100.7"}, trusted: defaults,
			want: "198.51.100.7",
		},
		{
			name: "a proxy that appends", peer: "127.0.0.1:4711",
			forwarded: []string{"203.0.113.9, 198.51.100.7"}, trusted: defaults, want: "198.51.100.7",
		},
		{
			name: "on lines of their own", peer: "127.0.0.1:4711",
			forwarded: []string{"203.0.113.9", "198.51.100.7"}, trusted: defaults, want: "198.51.100.7",
		},
		{
			name: "two proxies", peer: "[::1]:4711",
			forwarded: []string{"203.0.113.9, 198.51.100.7 ,10.0.0.1"}, trusted: defaults,
			want: "198.51.100.7",
		},
		{
			name: "a client beside the proxies", peer: "10.0.0.2:4711", forwarded: []string{"10.0.0.1"},
			trusted: defaults, want: "10.0.0.1",
		},
		{
			name: "nonsense", peer: "10.0.0.2:4711", forwarded: []string{"198.51.100.7, unknown"},
			trusted: defaults, want: "10.0.0.2",
		},
		{name: "nothing", peer: "10.0.0.2:4711", forwarded: []string{""}, trusted: defaults, want: "10.0.0.2"},
		{
			name: "with a port", peer: "10.0.0.2:4711", forwarded: []string{"198.51.100.7:99"},
			trusted: defaults, want: "198.51.100.7",
		},
		{name: "nobody is trusted", peer: "127.0.0.1:4711", forwarded: []string{"198.51.100.7"}, want: "127.0.0.1"},
		{name: "IPv6", peer: "[2001:db8:1:2:3:4:5:6]:4711", trusted: defaults, want: "2001:db8:1:2::/64"},
		{
			name: "IPv6 behind a proxy", peer: "10.0.0.2:4711", forwarded: []string{"[2001:db8:1:2::9]:80"},
			trusted: defaults, want: "2001:db8:1:2::/64",
		},
		{
			name: "IPv4 in IPv6", peer: "[::ffff:127.0.0.1]:4711", forwarded: []string{"::ffff:198.51.100.7"},
			trusted: defaults, want: "198.51.100.7",
		},
		{
			name: "with a zone", peer: "[fe80::1%eth0]:4711", forwarded: []string{"198.51.100.7"},
			trusted: defaults, want: "198.51.100.7",
		},
		{
			name: "a proxy with its own header", peer: "10.0.0.2:4711", real: "198.51.100.7",
			trusted: defaults, want: "198.51.100.7",
		},
		{
			name: "a proxy that leaves another header alone", peer: "10.0.0.2:4711",
			forwarded: []string{"198.51.100.7"}, real: "203.0.113.9", trusted: defaults, want: "198.51.100.7",
		},
		{
			name: "who is no proxy, with another header", peer: "192.0.2.1:4711", real: "198.51.100.7",
			trusted: defaults, want: "192.0.2.1",
		},
		{name: "a socket", peer: "@", trusted: defaults, want: "@"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := httptest.NewRequest("GET", "/", nil)
			request.RemoteAddr = test.peer
			request.Header["X-Forwarded-For"] = test.forwarded
			request.Header.Set("X-Real-Ip", test.real)
			if got := clientOf(request, test.trusted); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestRate(t *testing.T) {
	r, err := newRate(60)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for n := range 60 {
		for range 3 { // it is asked for again and again
			if err := r.ask("x", fmt.Sprint(n), now); err != nil {
				t.Fatalf("image %d: %v", n, err)
			}
		}
	}
	err = r.ask("x", "more", now)
	busy := busyFor{}
	if !isBusy(err) || !errors.As(err, &busy) || busy.after < time.Minute || busy.after > time.Minute+time.Second {
		t.Fatalf("the error is %v, after %v", err, busy.after)
	}
	if err := r.ask("y", "more", now); err != nil {
		t.Errorf("another client: %v", err)
	}
	now = now.Add(busy.after)
	if err := r.ask("x", "more", now); err != nil {
		t.Errorf("when it is time: %v", err)
	}
	if err := r.ask("x", "another", now); !isBusy(err) {
		t.Errorf("too early: %v", err)
	}
	for n := range 6 * clientsKept {
		if err := r.ask(fmt.Sprint("client ", n), "image", now); err != nil {
			t.Fatal(err)
		}
	}
	if r.left.Len() > clientsKept || r.asked.Len() > newKept {
		t.Errorf("%d clients and %d images are kept", r.left.Len(), r.asked.Len())
	}
}
