package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	readers     = 500             // that load a blob slowly, at once
	readersRate = 1000            // bytes a second of each
	readersTime = 5 * time.Second // that memory is looked at
	sampleTime  = 100 * time.Millisecond
)

// slowReaders measures, once, the memory of registries that have just been started: idle, and with
// many clients that load the largest layer of an image slowly. The other bytes of it are not waited
// for.
func (b *bench) slowReaders(ctx context.Context, name string) error {
	t := newTable(
		fmt.Sprintf("%d clients, 1 kB/s each", readers), "idle", "with them", "**more**", "a client",
	)
	for _, c := range []struct {
		about string
		start func(context.Context, settings) (*server, error)
		aim   bool
	}{
		{"this registry", b.start, true},
		{"stock registry", b.startStock, false},
	} {
		b.progress("stored: slow readers, %s", c.about)
		s, err := c.start(ctx, settings{errorsOnly: true})
		if err != nil {
			return err
		}
		idle, busy, err := s.memoryOfReaders(ctx, name)
		s.stop()
		if err != nil {
			return err
		}
		more := busy - idle
		t.row(c.about, megabytes(idle), megabytes(busy), megabytes(more), kilobytes(more/readers))
		if c.aim {
			b.aim(fmt.Sprintf("stored, %d slow readers, MB more than idle", readers), float64(more)/1e6, 100, "%.1f")
		}
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// memoryOfReaders is the resident memory of a server before they come, and its highest while they
// read.
func (s *server) memoryOfReaders(ctx context.Context, name string) (idle, busy int64, err error) {
	m, err := s.pull(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	large := m.Layers[0]
	for _, l := range m.Layers {
		if l.Size > large.Size {
			large = l
		}
	}
	if idle, err = memoryOf(s.cmd.Process.Pid, "VmRSS"); err != nil {
		return 0, 0, err
	}
	all, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithTimeout(ctx, readersTime)
	defer stop()
	for range readers {
		all.Go(func() error { return s.readSlowly(ctx, name, large) })
	}
	for ctx.Err() == nil {
		now, err := memoryOf(s.cmd.Process.Pid, "VmRSS")
		if err != nil {
			stop()
			return 0, 0, err
		}
		busy = max(busy, now)
		time.Sleep(sampleTime)
	}
	return idle, busy, all.Wait()
}

// readSlowly loads a blob until it has it, and returns when the time is over.
func (s *server) readSlowly(ctx context.Context, name string, blob v1.Descriptor) error {
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { connection.Close() })()
	defer connection.Close()
	socket := connection.(*net.TCPConn)
	if err := errors.Join(
		socket.SetReadBuffer(4<<10), // the kernel reads ahead no further
		socket.SetLinger(0),         // the server learns at once that it is closed
	); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(
		ctx, http.MethodGet, s.url+"/v2/"+name+"/blobs/"+blob.Digest.String(), nil,
	)
	if err != nil {
		return err
	}
	request.Close = true
	if err := request.Write(connection); err != nil {
		return err
	}
	answer := bufio.NewReaderSize(connection, readersRate)
	status, err := answer.ReadString('\n')
	if err == nil && !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		err = fmt.Errorf("GET %s: %q", request.URL, status)
	}
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for err == nil {
		if _, err = io.CopyN(io.Discard, answer, readersRate); err == nil {
			select {
			case <-ctx.Done():
			case <-every.C:
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		<-ctx.Done()
		return nil
	}
	return err
}
