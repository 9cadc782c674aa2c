package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"
)

// dropSize is the least size of a read whose bytes are dropped. Those of package net/http for its
// own use are smaller.
const dropSize = 64 << 10

// newDroppingClient makes one for bodies that nobody looks at. The kernel drops most of them, as
// copying them would take more of the cores than sending them does, which a client on another
// machine takes none of.
func newDroppingClient() *http.Client {
	client := newClient()
	client.Transport.(*http.Transport).DialContext = func(
		ctx context.Context, network, address string,
	) (net.Conn, error) {
		connection, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		raw, err := connection.(*net.TCPConn).SyscallConn()
		return droppingConn{connection, raw}, err
	}
	return client
}

// A droppingConn fills no buffer of dropSize or more.
type droppingConn struct {
	net.Conn
	raw syscall.RawConn
}

func (c droppingConn) Read(p []byte) (n int, err error) {
	if len(p) < dropSize {
		return c.Conn.Read(p)
	}
	waited := c.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_TRUNC)
		return err != unix.EAGAIN
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
