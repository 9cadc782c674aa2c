package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	clients  = 200 // that want one image at once
	imagesAt = 50  // that are wanted at once
)

// many measures what happens when many want something at once.
func (b *bench) many(ctx context.Context) error {
	if err := b.manyImages(ctx); err != nil {
		return err
	}
	if err := b.manyClients(ctx); err != nil {
		return err
	}
	return b.besideABuild(ctx)
}

// singles are names of different images: the packages of the largest one, each with one or none of
// the extras.
func (b *bench) singles(n int) []string {
	var all []string
	for _, extra := range append([]string{""}, extras()...) {
		for _, name := range strings.Split(b.largest().name, "/")[1:] {
			all = append(all, strings.TrimSuffix(name+"/"+extra, "/"))
		}
	}
	return all[:min(n, len(all))]
}

// manyImages pulls different images into an empty registry, one after the other and all at once.
func (b *bench) manyImages(ctx context.Context) error {
	names := b.singles(imagesAt)
	b.progress("many: evaluating %d images", len(names))
	if _, _, err := b.pullAll(ctx, names, len(names)); err != nil { // so that evaluation is in neither figure
		return err
	}
	t := newTable(
		fmt.Sprintf("%d different images, nothing stored", len(names)), "all together", "median", "p99",
		"**time, ratio to one after the other**",
	)
	var inTurn, atOnce []cost
	var medians, slowest []time.Duration
	for run := range b.runs {
		b.progress("many: %d images, run %d of %d", len(names), run+1, b.runs)
		one, _, err := b.pullAll(ctx, names, 1)
		if err != nil {
			return err
		}
		all, each, err := b.pullAll(ctx, names, len(names))
		if err != nil {
			return err
		}
		inTurn, atOnce = append(inTurn, one), append(atOnce, all)
		medians, slowest = append(medians, median(each)), append(slowest, quantile(each, 0.99))
	}
	t.row("one after the other", medianOf(inTurn, cost.time), "–", "–", 1.0)
	t.row("at once", medianOf(atOnce, cost.time), median(medians), median(slowest), ratios(atOnce, inTurn, wallRatio))
	fmt.Fprintln(b.out, t)
	return nil
}

// pullAll pulls images from an empty registry, so many at a time.
func (b *bench) pullAll(ctx context.Context, names []string, atATime int) (cost, []time.Duration, error) {
	if err := b.empty(); err != nil {
		return cost{}, nil, err
	}
	s, err := b.start(ctx, settings{})
	if err != nil {
		return cost{}, nil, err
	}
	defer s.stop()
	return pullAllFrom(ctx, s, names, atATime)
}

func pullAllFrom(ctx context.Context, s *server, names []string, atATime int) (cost, []time.Duration, error) {
	each := make([]time.Duration, len(names))
	started := time.Now()
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(atATime)
	for i, name := range names {
		all.Go(func() error {
			asked := time.Now()
			_, err := s.pull(ctx, name)
			each[i] = time.Since(asked)
			return err
		})
	}
	err := all.Wait()
	return cost{wall: time.Since(started)}, each, err
}

// manyClients has many clients pull one image that is not there, and one.
func (b *bench) manyClients(ctx context.Context) error {
	img := b.images[min(1, len(b.images)-1)]
	names := slices.Repeat([]string{img.name}, clients)
	t := newTable(
		"one image, nothing stored: "+img.String(), "all together", "p99", "images built",
		"**time, ratio to one client**",
	)
	var one, all []cost
	var slowest []time.Duration
	built := 0
	for run := range b.runs {
		b.progress("many: %d clients, run %d of %d", clients, run+1, b.runs)
		pull, _, err := b.coldPull(ctx, img.name, "gzip")
		if err != nil {
			return err
		}
		if err := b.empty(); err != nil {
			return err
		}
		s, err := b.start(ctx, settings{})
		if err != nil {
			return err
		}
		together, each, err := pullAllFrom(ctx, s, names, clients)
		n, logErr := s.builds()
		s.stop()
		if err == nil {
			err = logErr
		}
		if err != nil {
			return err
		}
		one, all, slowest, built = append(
			one, pull,
		), append(
			all, together,
		), append(
			slowest, quantile(each, 0.99),
		), max(
			built, n,
		)
	}
	t.row("1 client", medianOf(one, cost.time), "–", 1, 1.0)
	t.row(
		fmt.Sprintf("%d clients", clients), medianOf(all, cost.time), median(slowest), built,
		ratios(all, one, wallRatio),
	)
	fmt.Fprintln(b.out, t)
	return nil
}

// besideABuild pulls a stored image while the largest one is built, and, from the stock registry,
// while a plain tool packs the same.
func (b *bench) besideABuild(ctx context.Context) error {
	t := newTable("pulls of a stored image", "median", "p99", "stock registry, median", "p99", "**p99, ratio**")
	var idle, busy, stockIdle, stockBusy []time.Duration
	for run := range b.runs {
		b.progress("many: pulls beside a build, run %d of %d", run+1, b.runs)
		if err := b.empty(); err != nil {
			return err
		}
		s, err := b.start(ctx, settings{})
		if err != nil {
			return err
		}
		stock, err := b.startStock(ctx, settings{})
		if err != nil {
			s.stop()
			return err
		}
		err = b.pullBeside(ctx, s, stock, &idle, &busy, &stockIdle, &stockBusy)
		stock.stop()
		s.stop()
		if err != nil {
			return err
		}
	}
	for _, row := range []struct {
		about       string
		ours, stock []time.Duration
	}{
		{"nothing else happens", idle, stockIdle},
		{"beside a build of the largest image (stock: beside tar, pigz -1 -p2 of it)", busy, stockBusy},
	} {
		p99, stockP99 := quantile(row.ours, 0.99), quantile(row.stock, 0.99)
		t.row(row.about, median(row.ours), p99, median(row.stock), stockP99, float64(p99)/float64(stockP99))
	}
	fmt.Fprintln(b.out, t)
	return nil
}

func (b *bench) pullBeside(
	ctx context.Context, s, stock *server, idle, busy, stockIdle, stockBusy *[]time.Duration,
) error {
	stored := b.images[0].name
	if _, err := s.ask(ctx, stored, 1); err != nil {
		return err
	}
	for _, turn := range []struct {
		server     *server
		idle, busy *[]time.Duration
		work       func() error
	}{
		{s, idle, busy, func() error { _, err := s.pull(ctx, b.largest().name); return err }},
		{
			stock, stockIdle, stockBusy,
			func() error { _, err := b.piped(ctx, b.largest(), "pigz", "-1", "-p2"); return err },
		},
	} {
		times, err := turn.server.ask(ctx, stored, asks)
		if err != nil {
			return err
		}
		*turn.idle = append(*turn.idle, times...)
		var done sync.WaitGroup
		var workErr error
		ended := make(chan struct{})
		done.Go(func() {
			defer close(ended)
			workErr = turn.work()
		})
		for err == nil && !closed(ended) {
			times, err = turn.server.ask(ctx, stored, 1)
			*turn.busy = append(*turn.busy, times...)
			time.Sleep(2 * time.Millisecond) // a client among others, not a flood
		}
		done.Wait()
		if err == nil {
			err = workErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
