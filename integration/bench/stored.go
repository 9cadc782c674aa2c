package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// wrkArgs keep a registry busy with 16 connections, for a second at a time.
func wrkArgs() []string {
	return []string{"--threads=1", "--connections=16", "--duration=1s", "--timeout=30s", "--latency", "--header=Accept: " + accept}
}

// A throughput is what wrk says.
type throughput struct {
	perSecond float64
	p99       time.Duration
}

// stored measures how many manifests and blobs the registry serves, against the stock registry on the same storage.
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
	stock, err := b.startStock(ctx)
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
	t := newTable("", "per second", "stock registry", "**throughput, ratio**", "p99", "stock registry", "p99, ratio")
	for _, c := range []struct{ about, path string }{
		{"manifest by tag, `latest`", manifests + "latest"},
		{"manifest by tag, the revision", manifests + revision},
		{"manifest by digest", manifests + digest},
		{"config", blobs + m.Config.Digest.String()},
		{"smallest layer, " + kilobytes(small.Size), blobs + small.Digest.String()},
		{"largest layer, " + megabytes(large.Size), blobs + large.Digest.String()},
	} {
		var ours, others []throughput
		for run := range b.runs {
			b.progress("stored: %s, run %d of %d", c.about, run+1, b.runs)
			for _, turn := range []struct {
				server *server
				all    *[]throughput
			}{{s, &ours}, {stock, &others}} {
				got, err := wrk(ctx, turn.server.url+c.path)
				if err != nil {
					return err
				}
				*turn.all = append(*turn.all, got)
			}
		}
		perSecond := func(t throughput) float64 { return t.perSecond }
		p99 := func(t throughput) time.Duration { return t.p99 }
		ratio := ratios(ours, others, func(a, b throughput) float64 { return a.perSecond / b.perSecond })
		t.row(c.about, fmt.Sprintf("%.0f", medianOf(ours, perSecond)), fmt.Sprintf("%.0f", medianOf(others, perSecond)), ratio,
			medianOf(ours, p99), medianOf(others, p99), ratios(ours, others, func(a, b throughput) float64 { return a.p99.Seconds() / b.p99.Seconds() }))
		b.aimLeast("stored, "+c.about+": throughput against the stock registry", ratio, 0.98, "%.2f")
	}
	if b.peer != "" {
		b.progress("stored: peer")
		got, err := wrk(ctx, b.peer+manifests+"latest")
		if err != nil {
			return err
		}
		t.row("peer, manifest by tag, `latest`", fmt.Sprintf("%.0f", got.perSecond), "–", "–", got.p99, "–", "–")
	}
	fmt.Fprintln(b.out, t)
	return nil
}

func wrk(ctx context.Context, url string) (throughput, error) {
	out, err := command(ctx, "wrk", append(wrkArgs(), url)...).Output()
	if err != nil {
		return throughput{}, fmt.Errorf("wrk %s: %w", url, err)
	}
	got, err := parseWrk(string(out))
	if err != nil {
		return throughput{}, fmt.Errorf("wrk %s: %w\n%s", url, err, out)
	}
	return got, nil
}

var (
	wrkRate  = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkP99   = regexp.MustCompile(`\s99%\s+([0-9.]+(?:us|ms|s|m)) *\n`)
	wrkFault = regexp.MustCompile(`(?:Non-2xx or 3xx responses|Socket errors):.*`)
)

// parseWrk reads the report of wrk --latency. Answers that are errors make it one.
func parseWrk(report string) (throughput, error) {
	if fault := wrkFault.FindString(report); fault != "" {
		return throughput{}, fmt.Errorf("%s", fault)
	}
	rate, p99 := wrkRate.FindStringSubmatch(report), wrkP99.FindStringSubmatch(report)
	if rate == nil || p99 == nil {
		return throughput{}, fmt.Errorf("no rate or no latency in its report")
	}
	perSecond, err := strconv.ParseFloat(rate[1], 64)
	if err != nil {
		return throughput{}, err
	}
	latency, err := time.ParseDuration(p99[1])
	return throughput{perSecond, latency}, err
}
