package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// wrkArgs keep a server busy with 16 connections.
//
// For large answers it takes longer, and another thread. wrk counts answers that are complete: of 16
// large ones that are under way, a second would leave up to a sixth out, and more of those that come
// evenly. And one thread is busy all the time with copying what arrives.
func wrkArgs(large bool) []string {
	threads, window := "1", time.Second
	if large {
		threads, window = "2", 5*time.Second
	}
	return []string{
		"--threads=" + threads, "--connections=16", "--duration=" + window.String(), "--timeout=30s", "--latency",
		"--header=Accept: " + accept,
	}
}

// A throughput is what wrk says.
type throughput struct {
	perSecond float64
	p99       time.Duration
	requests  int
	cpu       time.Duration // that the server took for all of them, by its own processes
}

func (t throughput) rate() float64          { return t.perSecond }
func (t throughput) slowest() time.Duration { return t.p99 }
func (t throughput) each() time.Duration    { return t.cpu / time.Duration(max(t.requests, 1)) }
func rateRatio(a, b throughput) float64     { return a.perSecond / b.perSecond }
func slowestRatio(a, b throughput) float64  { return a.p99.Seconds() / b.p99.Seconds() }
func eachRatio(a, b throughput) float64     { return a.each().Seconds() / b.each().Seconds() }

// An other serves the same as this registry does.
type other struct {
	name   string
	server *server
	files  bool    // it is no registry: it serves files of the storage
	least  float64 // wanted throughput of this registry for a request, in terms of its; 0: none
	pulls  float64 // the same for whole pulls
}

// A request is one that wrk makes again and again.
type request struct {
	about, path string
	file        string // the path to a file server; empty: it is not asked
	large       bool   // the answer has megabytes
}

// The sizes of the blobs that are asked for: half of an image's layers are small.
const (
	smallBlob = 9_000
	largeBlob = 14_000_000
)

// stored measures what the registry serves of what it has, against the stock registry on the same
// storage, peers that hold copies, and a file server over the same files.
func (b *bench) stored(ctx context.Context) error {
	if err := b.empty(); err != nil {
		return err
	}
	s, err := b.start(ctx, settings{errorsOnly: true})
	if err != nil {
		return err
	}
	defer s.stop()
	names := append([]string{b.images[0].name}, b.pulls...)
	for _, name := range names {
		b.progress("stored: building %s", name)
		if _, err := s.pull(ctx, name); err != nil {
			return err
		}
	}
	stock, err := b.startStock(ctx, settings{errorsOnly: true})
	if err != nil {
		return err
	}
	defer stock.stop()
	registries := []other{{name: "stock registry", server: stock, least: 0.98, pulls: 2}}
	for _, p := range b.peers {
		to := &server{url: p.url, client: newClient()}
		for _, name := range names {
			b.progress("stored: copying %s to %s", name, p.name)
			if err := s.copyImage(ctx, to, name); err != nil {
				return fmt.Errorf("filling %s: %w", p.name, err)
			}
		}
		registries = append(registries, other{name: p.name, server: to, least: 1, pulls: 1})
	}
	files, err := b.startFiles(ctx)
	if err != nil {
		return err
	}
	defer files.stop()
	others := append(registries[:len(registries):len(registries)], other{
		name: "bare file server", server: &server{url: files.url}, files: true,
	})
	if err := b.storedRequests(ctx, s, others); err != nil {
		return err
	}
	if err := b.wholePulls(ctx, s, registries); err != nil {
		return err
	}
	s.stop()
	stock.stop()
	if err := b.besideUnknown(ctx, b.images[0].name); err != nil {
		return err
	}
	return b.slowReaders(ctx, b.images[0].name)
}

// requests are those for an image that the table has.
func (s *server) requests(ctx context.Context, name string) ([]request, error) {
	m, err := s.pull(ctx, name)
	if err != nil {
		return nil, err
	}
	digest, err := s.manifestDigest(ctx, name)
	if err != nil {
		return nil, err
	}
	small, large := nearest(m.Layers, smallBlob), nearest(m.Layers, largeBlob)
	revision := m.Annotations[v1.AnnotationRevision]
	manifests, blobs := "/v2/"+name+"/manifests/", "/v2/"+name+"/blobs/"
	return []request{
		{about: "manifest by tag, `latest`", path: manifests + "latest"},
		{about: "manifest by tag, the revision", path: manifests + revision},
		{about: "manifest by digest", path: manifests + digest},
		{about: "config", path: blobs + m.Config.Digest.String()},
		{
			about: "small layer, " + kilobytes(small.Size), path: blobs + small.Digest.String(),
			file: fileOf(small.Digest),
		},
		{
			about: "large layer, " + megabytes(large.Size), path: blobs + large.Digest.String(),
			file: fileOf(large.Digest), large: true,
		},
	}, nil
}

// nearest is the layer whose size is nearest. There must be one.
func nearest(layers []v1.Descriptor, size int64) v1.Descriptor {
	return slices.MinFunc(layers, func(a, b v1.Descriptor) int {
		return cmp.Compare(max(a.Size-size, size-a.Size), max(b.Size-size, size-b.Size))
	})
}

// storedRequests measures how many manifests and blobs are served.
func (b *bench) storedRequests(ctx context.Context, s *server, others []other) error {
	requests, err := s.requests(ctx, b.images[0].name)
	if err != nil {
		return err
	}
	t := newTable(
		"", "against", "per second", "the other", "**throughput, ratio**", "p99", "the other", "p99, ratio",
		"CPU of a request, ratio",
	)
	for _, r := range requests {
		asked := slices.DeleteFunc(slices.Clone(others), func(o other) bool { return o.files && r.file == "" })
		var ours []throughput
		theirs := make([][]throughput, len(asked))
		for turn := range b.runs * b.turns {
			b.progress("stored: %s, turn %d of %d", r.about, turn+1, b.runs*b.turns)
			got, err := s.wrk(ctx, r.path, r.large)
			if err != nil {
				return err
			}
			ours = append(ours, got)
			for i, o := range asked {
				path := r.path
				if o.files {
					path = r.file
				}
				if got, err = o.server.wrk(ctx, path, r.large); err != nil {
					return err
				}
				theirs[i] = append(theirs[i], got)
			}
		}
		for i, o := range asked {
			ratio := ratios(ours, theirs[i], rateRatio)
			var cpu any = "–"
			if o.server.cmd != nil {
				cpu = ratios(ours, theirs[i], eachRatio)
			}
			t.row(
				r.about, o.name,
				fmt.Sprintf("%.0f", medianOf(ours, throughput.rate)),
				fmt.Sprintf("%.0f", medianOf(theirs[i], throughput.rate)),
				ratio,
				medianOf(ours, throughput.slowest), medianOf(theirs[i], throughput.slowest),
				ratios(ours, theirs[i], slowestRatio), cpu,
			)
			if o.least > 0 {
				b.aimLeast("stored, "+r.about+": throughput against "+o.name, ratio, o.least, "%.2f")
			}
		}
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// wrk keeps a server busy with GETs of a path, whose answers may be large. Those it asks for longer.
func (s *server) wrk(ctx context.Context, path string, large bool) (throughput, error) {
	before, err := s.usage()
	if err != nil {
		return throughput{}, err
	}
	out, err := command(ctx, "wrk", append(wrkArgs(large), s.url+path)...).Output()
	if err != nil {
		return throughput{}, fmt.Errorf("wrk %s: %w", s.url+path, err)
	}
	got, err := parseWrk(string(out))
	if err != nil {
		return throughput{}, fmt.Errorf("wrk %s: %w\n%s", s.url+path, err, out)
	}
	after, err := s.usage()
	got.cpu = after.cpu - before.cpu
	return got, err
}

var (
	wrkCount = regexp.MustCompile(`\s(\d+) requests in `)
	wrkRate  = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkP99   = regexp.MustCompile(`\s99%\s+([0-9.]+(?:us|ms|s|m)) *\n`)
	wrkFault = regexp.MustCompile(`(?:Non-2xx or 3xx responses|Socket errors):.*`)
)

// parseWrk reads the report of wrk --latency. Answers that are errors make it one.
func parseWrk(report string) (got throughput, err error) {
	if fault := wrkFault.FindString(report); fault != "" {
		return got, errors.New(fault)
	}
	count, rate, p99 := wrkCount.FindStringSubmatch(
		report,
	), wrkRate.FindStringSubmatch(
		report,
	), wrkP99.FindStringSubmatch(
		report,
	)
	if count == nil || rate == nil || p99 == nil {
		return got, errors.New("its report lacks the number of requests, their rate or their latency")
	}
	if got.requests, err = strconv.Atoi(count[1]); err != nil {
		return throughput{}, err
	}
	if got.perSecond, err = strconv.ParseFloat(rate[1], 64); err != nil {
		return throughput{}, err
	}
	got.p99, err = time.ParseDuration(p99[1])
	return got, err
}
