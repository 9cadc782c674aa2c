package main

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// together is how many images are built at a time.
const together = 8

// memory measures what builds of the largest image need at their highest.
func (b *bench) memory(ctx context.Context) error {
	b.progress("memory: the stock registry")
	stock, err := b.stockPeak(ctx)
	if err != nil {
		return err
	}
	t := newTable(
		"largest image", "compression", "registry", "**ratio to the stock registry, serving it**",
		"its processes of Nix",
	)
	for _, compression := range []string{"gzip", "zstd"} {
		for _, names := range [][]string{{b.largest().name}, nearly(b.largest().name, together)} {
			b.progress("memory: %d at a time, %s", len(names), compression)
			var peaks, children []int64
			for range b.runs {
				u, err := b.peakOfBuilds(ctx, names, compression)
				if err != nil {
					return err
				}
				peaks, children = append(peaks, u.peak), append(children, u.children)
			}
			peak := median(peaks)
			t.row(
				fmt.Sprintf("%d at a time", len(names)), compression, megabytes(peak),
				float64(peak)/float64(stock), megabytes(median(children)),
			)
			if len(names) > 1 {
				b.aim(
					fmt.Sprintf("memory, %d builds of the largest image together, %s, MB", len(names), compression),
					float64(peak)/1e6, 150, "%.0f",
				)
			}
		}
	}
	fmt.Fprintf(
		b.out, "%s\nThe stock registry needs %s when it serves a client all of that image.\n\n", t,
		megabytes(stock),
	)
	return nil
}

// nearly are n names: the given one, and others that lack one of its last packages each. They begin
// again where there are not so many packages.
func nearly(name string, n int) []string {
	first, rest, _ := strings.Cut(name, "/")
	parts := strings.Split(rest, "/")
	all := []string{name}
	for i := range n - 1 {
		at := len(parts) - 1 - i%len(parts)
		all = append(all, path.Join(first, strings.Join(slices.Delete(slices.Clone(parts), at, at+1), "/")))
	}
	return all
}

// peakOfBuilds builds images at the same time, in an empty registry.
func (b *bench) peakOfBuilds(ctx context.Context, names []string, compression string) (usage, error) {
	if err := b.empty(); err != nil {
		return usage{}, err
	}
	s, err := b.start(ctx, settings{compression: compression})
	if err != nil {
		return usage{}, err
	}
	defer s.stop()
	all, pulling := errgroup.WithContext(ctx)
	for _, name := range names {
		all.Go(func() error {
			_, err := s.pull(pulling, name)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return usage{}, err
	}
	return s.usage()
}

// stockPeak is what the stock registry needs to serve a client all of the largest image.
func (b *bench) stockPeak(ctx context.Context) (int64, error) {
	if _, err := b.peakOfBuilds(ctx, []string{b.largest().name}, "gzip"); err != nil {
		return 0, err
	}
	s, err := b.startStock(ctx, settings{})
	if err != nil {
		return 0, err
	}
	defer s.stop()
	m, err := s.pull(ctx, b.largest().name)
	if err != nil {
		return 0, err
	}
	for _, layer := range m.Layers {
		status, _, err := s.get(ctx, "/v2/"+b.largest().name+"/blobs/"+layer.Digest.String())
		if err != nil {
			return 0, err
		}
		if status != http.StatusOK {
			return 0, fmt.Errorf("getting layer %s of the largest image: status %d", layer.Digest, status)
		}
	}
	u, err := s.usage()
	return u.peak, err
}
