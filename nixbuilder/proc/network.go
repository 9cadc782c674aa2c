package proc

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// LoopbackAddress is the address of the listener in a network of a program's own.
const LoopbackAddress = "127.0.0.1:3128"

// newNetwork puts this thread into a new network, in which there is only a listener on
// LoopbackAddress. Programs that the thread starts are in it.
func newNetwork() (net.Listener, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("making a network: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("making a network: %w", err)
	}
	// A socket stays in the network of the thread that made it.
	return new(net.ListenConfig).Listen(context.Background(), "tcp4", LoopbackAddress)
}

func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}
