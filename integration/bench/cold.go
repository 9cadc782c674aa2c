package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// A rival is what a compression is compared with.
type rival struct {
	compression, name string
	run               func(context.Context, image) (cost, error)
	times             float64 // of its time, at most
	bytesOf           string  // what its bytes are of
	bytes             float64 // of them, at most; 0: no matter
}

func (b *bench) rivals() []rival {
	pipe := func(tool ...string) func(context.Context, image) (cost, error) {
		return func(ctx context.Context, img image) (cost, error) { return b.piped(ctx, img, tool...) }
	}
	return []rival{
		{"gzip", "tar, pigz -1 -p2", pipe("pigz", "-1", "-p2"), 1, "gzip -6", 1.06},
		{"zstd", "tar, zstd -1 -T2", pipe("zstd", "-q", "-1", "-T2"), 2, "zstd -1", 1},
		{"none", "tar to disk, sha256", b.writtenAndHashed, 1.5, "the tar", 0},
	}
}

// cold measures how store paths of the local store become images, against plain tools on the same
// store paths.
func (b *bench) cold(ctx context.Context) error {
	gzip6, err := b.gzipSizes(ctx)
	if err != nil {
		return err
	}
	t := newTable(
		"image", "compression", "pull", "of it building", "CPU", "against", "takes", "CPU", "**time, ratio**",
		"CPU, ratio", "layers", "bytes, ratio",
	)
	for i, img := range b.images {
		for _, r := range b.rivals() {
			var ours, others []cost
			var built []time.Duration
			for run := range b.runs {
				b.progress("cold: %s, %s, run %d of %d", img, r.compression, run+1, b.runs)
				pull, building, err := b.coldPull(ctx, img.name, r.compression)
				if err != nil {
					return err
				}
				other, err := r.run(ctx, img)
				if err != nil {
					return err
				}
				if r.compression == "gzip" {
					other.bytes = gzip6[i]
				}
				ours, others, built = append(ours, pull), append(others, other), append(built, building)
			}
			times, bytes := ratios(ours, others, wallRatio), ratios(ours, others, bytesRatio)
			b.aim(fmt.Sprintf("cold, %s, %s: time against %s", img, r.compression, r.name), times, r.times, "%.2f")
			if r.bytes > 0 {
				b.aim(
					fmt.Sprintf("cold, %s, %s: bytes against %s", img, r.compression, r.bytesOf), bytes,
					r.bytes, "%.3f",
				)
			}
			t.row(
				img, r.compression, medianOf(ours, cost.time), median(built), medianOf(ours, cost.cpuTime),
				r.name, medianOf(others, cost.time), medianOf(others, cost.cpuTime), times,
				ratios(ours, others, cpuRatio), megabytes(ours[0].bytes),
				fmt.Sprintf("%.3f of %s", bytes, r.bytesOf),
			)
		}
	}
	fmt.Fprintln(b.out, t)
	return b.plainTools(ctx)
}

// coldPull pulls an image from a registry that has just been started and stores nothing but
// evaluations. Bytes are those of the layers.
func (b *bench) coldPull(ctx context.Context, name, compression string) (pull cost, building time.Duration, err error) {
	if err := b.empty(); err != nil {
		return cost{}, 0, err
	}
	s, err := b.start(ctx, settings{compression: compression})
	if err != nil {
		return cost{}, 0, err
	}
	defer s.stop()
	if pull, err = s.timedPull(ctx, name); err != nil {
		return cost{}, 0, err
	}
	building, err = s.took()
	return pull, building, err
}

// gzipSizes are what gzip -6 makes of the images, which takes long and one core each.
func (b *bench) gzipSizes(ctx context.Context) ([]int64, error) {
	b.progress("cold: sizes of gzip -6")
	sizes := make([]int64, len(b.images))
	all, ctx := errgroup.WithContext(ctx)
	for i, img := range b.images {
		all.Go(func() error {
			compressed, err := b.piped(ctx, img, "gzip", "-6")
			sizes[i] = compressed.bytes
			return err
		})
	}
	return sizes, all.Wait()
}

// plainTools prints what others take for the same store paths, once each.
func (b *bench) plainTools(ctx context.Context) error {
	t := newTable("image", "plain tool, once", "takes", "CPU", "bytes")
	for _, img := range b.images {
		for _, tool := range [][]string{{"pigz", "-1"}, {"pigz", "-6"}, {"zstd", "-q", "-3", "-T0"}, {"sha256sum"}} {
			b.progress("cold: %s, %s", img, tool)
			c, err := b.piped(ctx, img, tool...)
			if err != nil {
				return err
			}
			t.row(img, "tar, "+toolName(tool), c.wall, c.cpu, megabytes(c.bytes))
		}
	}
	fmt.Fprintln(b.out, t)
	return nil
}
