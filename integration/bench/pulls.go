package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A way is how a client loads an image. All ask for the digest of the tag by HEAD, and then for the
// manifest by that digest.
type way struct {
	name         string
	ping         bool // asks for /v2/ first
	configBeside bool // the config does not count among the blobs that are loaded at a time
}

// blobsAtOnce is how many blobs clients load at a time when nobody has set anything: layers in
// docker, layers and the config in containerd.
const blobsAtOnce = 3

// pullers are how many load an image at once, in a table with others.
const pullers = 50

var (
	dockerWay     = way{name: "docker", ping: true, configBeside: true}
	containerdWay = way{name: "containerd"}
)

// wholePulls are what a run of them took.
type wholePulls struct {
	each   []time.Duration
	wall   time.Duration
	cpu    time.Duration // of the server
	client time.Duration // processor time of all clients, which are this process
}

func (p wholePulls) time() time.Duration { return median(p.each) }
func (p wholePulls) rate() float64       { return float64(len(p.each)) / p.wall.Seconds() }
func (p wholePulls) one() time.Duration  { return p.cpu / time.Duration(len(p.each)) }
func (p wholePulls) ask() time.Duration  { return p.client / time.Duration(len(p.each)) }

func pullRateRatio(a, b wholePulls) float64 { return a.rate() / b.rate() }
func pullCPURatio(a, b wholePulls) float64 {
	return a.one().Seconds() / max(b.one(), time.Millisecond).Seconds()
}

// wholePulls measures images from the manifest to the last layer, which clients read and drop.
func (b *bench) wholePulls(ctx context.Context, s *server, others []other) error {
	t := newTable(
		"image", "clients", "against", "pull", "the other", "pulls per second", "the other",
		"**pulls per second, ratio**", "CPU of a pull", "ratio", "CPU of its client",
	)
	for _, name := range b.pulls {
		m, err := s.pull(ctx, name)
		if err != nil {
			return err
		}
		about := fmt.Sprintf("%d layers, %s", len(m.Layers), megabytes(layerBytes(m)))
		for _, c := range []struct {
			way     way
			clients int
			times   int // that each of them pulls in a turn
			turns   int // in a run
		}{
			{dockerWay, 1, 5, b.turns},
			{containerdWay, 1, 5, b.turns},
			{dockerWay, pullers, 1, 1},
			{containerdWay, pullers, 1, 1},
		} {
			clients := fmt.Sprintf("%d, as %s does", c.clients, c.way.name)
			var ours []wholePulls
			theirs := make([][]wholePulls, len(others))
			for turn := range b.runs * c.turns {
				b.progress("stored: %s, %s, turn %d of %d", about, clients, turn+1, b.runs*c.turns)
				got, err := c.way.run(ctx, s, name, m, c.clients, c.times)
				if err != nil {
					return err
				}
				ours = append(ours, got)
				for i, o := range others {
					if got, err = c.way.run(ctx, o.server, name, m, c.clients, c.times); err != nil {
						return fmt.Errorf("%s: %w", o.name, err)
					}
					theirs[i] = append(theirs[i], got)
				}
			}
			for i, o := range others {
				ratio := ratios(ours, theirs[i], pullRateRatio)
				var cpu any = "–"
				if o.server.cmd != nil {
					cpu = ratios(ours, theirs[i], pullCPURatio)
				}
				t.row(
					about, clients, o.name,
					medianOf(ours, wholePulls.time), medianOf(theirs[i], wholePulls.time),
					fmt.Sprintf("%.1f", medianOf(ours, wholePulls.rate)),
					fmt.Sprintf("%.1f", medianOf(theirs[i], wholePulls.rate)),
					ratio, medianOf(ours, wholePulls.one), cpu, medianOf(ours, wholePulls.ask),
				)
				b.aimLeast(
					fmt.Sprintf("stored, whole pulls, %d layers, %s: against %s", len(m.Layers), clients, o.name),
					ratio, o.pulls, "%.2f",
				)
			}
		}
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// run has clients pull an image at once, each several times in a row. What they load is compared in
// size with the manifest.
func (w way) run(
	ctx context.Context, s *server, name string, want v1.Manifest, clients, times int,
) (wholePulls, error) {
	before, err := s.usage()
	if err != nil {
		return wholePulls{}, err
	}
	p := wholePulls{each: make([]time.Duration, clients*times)}
	all, ctx := errgroup.WithContext(ctx)
	started, ours := time.Now(), own()
	for client := range clients {
		all.Go(func() error {
			for i := range times {
				asked := time.Now()
				n, err := w.pull(ctx, s.url, name)
				if err != nil {
					return err
				}
				if all := want.Config.Size + layerBytes(want); n != all {
					return fmt.Errorf("%s of %s has %d bytes of blobs, not %d", name, s.url, n, all)
				}
				p.each[client*times+i] = time.Since(asked)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return wholePulls{}, err
	}
	p.wall, p.client = time.Since(started), own()-ours
	after, err := s.usage()
	p.cpu = after.cpu - before.cpu
	return p, err
}

// pull loads an image over connections of its own, drops it, and returns how many bytes its blobs
// had.
func (w way) pull(ctx context.Context, url, name string) (int64, error) {
	s := &server{url: url, client: newDroppingClient()}
	defer s.client.CloseIdleConnections()
	if w.ping {
		if _, err := s.drop(ctx, "/v2/", make([]byte, 512)); err != nil {
			return 0, err
		}
	}
	repository := "/v2/" + name
	head, err := http.NewRequestWithContext(ctx, http.MethodHead, url+repository+"/manifests/latest", nil)
	if err != nil {
		return 0, err
	}
	head.Header.Set("Accept", accept)
	resolved, err := s.send(head, http.StatusOK)
	if err != nil {
		return 0, err
	}
	path := repository + "/manifests/" + resolved.Get("Docker-Content-Digest")
	status, body, err := s.get(ctx, path)
	if err != nil {
		return 0, err
	}
	if status != http.StatusOK {
		return 0, fmt.Errorf("GET %s: status %d, %s", path, status, body)
	}
	var m v1.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return 0, err
	}

	// Who has a buffer may load a blob.
	buffers := make(chan []byte, blobsAtOnce)
	for range cap(buffers) {
		buffers <- make([]byte, 4*dropSize)
	}
	sizes := make([]int64, 1+len(m.Layers)) // the config's is the first
	loading, ctx := errgroup.WithContext(ctx)
	load := func(i int, blob v1.Descriptor, buffer []byte) (err error) {
		sizes[i], err = s.drop(ctx, repository+"/blobs/"+blob.Digest.String(), buffer)
		return err
	}
	blobs := append([]v1.Descriptor{m.Config}, m.Layers...)
	for i, blob := range blobs {
		if i == 0 && w.configBeside {
			loading.Go(func() error { return load(i, blob, make([]byte, 8<<10)) })
			continue
		}
		buffer := <-buffers
		loading.Go(func() error {
			defer func() { buffers <- buffer }()
			return load(i, blob, buffer)
		})
	}
	if err := loading.Wait(); err != nil {
		return 0, err
	}
	var n int64
	for _, size := range sizes {
		n += size
	}
	return n, nil
}

// drop gets a path and returns the size of its body, which is read through the buffer.
func (s *server) drop(ctx context.Context, path string, buffer []byte) (int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s: status %d", path, response.StatusCode)
	}
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, response.Body, buffer)
}
