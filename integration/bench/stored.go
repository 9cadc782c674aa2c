package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// turns is how often each registry is kept busy in a run: a second is short.
const turns = 3

// wrkArgs keep a registry busy with 16 connections, for a second at a time.
func wrkArgs() []string {
	return []string{
		"--threads=1", "--connections=16", "--duration=1s", "--timeout=30s", "--latency",
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

// stored measures how many manifests and blobs the registry serves, against the stock registry on
// the same storage.
func (b *bench) stored(ctx context.Context) error {
	img := b.images[0]
	if err := b.empty(); err != nil {
		return err
	}
	s, err := b.start(ctx, settings{})
	if err != nil {
		return err
	}
	defer s.stop()
	m, err := s.pull(ctx, img.name)
	if err != nil {
		return err
	}
	stock, err := b.startStock(ctx, settings{})
	if err != nil {
		return err
	}
	defer stock.stop()

	small, large := m.Layers[0], m.Layers[0]
	for _, l := range m.Layers {
		if l.Size < small.Size {
			small = l
		}
		if l.Size > large.Size {
			large = l
		}
	}
	digest, err := s.manifestDigest(ctx, img.name)
	if err != nil {
		return err
	}
	revision := m.Annotations["org.opencontainers.image.revision"]
	manifests, blobs := "/v2/"+img.name+"/manifests/", "/v2/"+img.name+"/blobs/"
	t := newTable(
		"", "per second", "stock registry", "**throughput, ratio**", "p99", "stock registry", "p99, ratio",
		"CPU of a request, ratio",
	)
	for _, c := range []struct{ about, path string }{
		{"manifest by tag, `latest`", manifests + "latest"},
		{"manifest by tag, the revision", manifests + revision},
		{"manifest by digest", manifests + digest},
		{"config", blobs + m.Config.Digest.String()},
		{"smallest layer, " + kilobytes(small.Size), blobs + small.Digest.String()},
		{"largest layer, " + megabytes(large.Size), blobs + large.Digest.String()},
	} {
		var ours, others []throughput
		for run := range b.runs * turns {
			b.progress("stored: %s, turn %d of %d", c.about, run+1, b.runs*turns)
			for _, turn := range []struct {
				server *server
				all    *[]throughput
			}{{s, &ours}, {stock, &others}} {
				got, err := turn.server.wrk(ctx, c.path)
				if err != nil {
					return err
				}
				*turn.all = append(*turn.all, got)
			}
		}
		ratio := ratios(ours, others, rateRatio)
		t.row(
			c.about,
			fmt.Sprintf("%.0f", medianOf(ours, throughput.rate)),
			fmt.Sprintf("%.0f", medianOf(others, throughput.rate)),
			ratio,
			medianOf(
				ours, throughput.slowest,
			),
			medianOf(others, throughput.slowest),
			ratios(ours, others, slowestRatio),
			ratios(ours, others, eachRatio),
		)
		b.aimLeast("stored, "+c.about+": throughput against the stock registry", ratio, 0.98, "%.2f")
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// wrk keeps a server busy with GETs of a path.
func (s *server) wrk(ctx context.Context, path string) (throughput, error) {
	before, err := s.usage()
	if err != nil {
		return throughput{}, err
	}
	out, err := command(ctx, "wrk", append(wrkArgs(), s.url+path)...).Output()
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
