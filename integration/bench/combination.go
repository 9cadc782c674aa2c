package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// extras are packages that other images are made different with. None of them is in those, nor in
// what shell stands for.
func extras() []string {
	return []string{
		"bc", "file", "gawk", "hostname", "jq", "less", "lsof", "psmisc", "pv", "screen", "socat", "strace",
		"tree", "unzip", "zip",
	}
}

// A mixture are names that hold about as much and have nobody asked for, one for each measurement.
type mixture struct {
	about string
	names []string
}

// mixtures adds each of the extras to each of the images.
func (b *bench) mixtures() []mixture {
	var all []mixture
	for _, img := range b.images {
		m := mixture{about: img.String() + ", and one more"}
		for _, extra := range extras() {
			m.names = append(m.names, img.name+"/"+extra)
		}
		all = append(all, m)
	}
	return all
}

// combination measures images whose packages were all served before, each alone.
func (b *bench) combination(ctx context.Context) error {
	if err := b.empty(); err != nil {
		return err
	}
	s, err := b.start(ctx, settings{})
	if err != nil {
		return err
	}
	defer s.stop()
	known := make(layerSet)
	for _, name := range slices.Sorted(slices.Values(append(strings.Split(b.largest().name, "/"), extras()...))) {
		b.progress("combination: serving %s alone", name)
		m, err := s.pull(ctx, name)
		if err != nil {
			return err
		}
		known.add(m)
	}
	syscall.Sync() // what was written for that
	before, err := b.programs()
	if err != nil {
		return err
	}
	t := newTable(
		"image", "layers", "new ones", "pull", "slowest", "with its config and root layer",
		"all layers linked", "CPU until then", "against", "takes", "**time, ratio**",
	)
	for _, m := range b.mixtures() {
		b.progress("combination: %s", m.about)
		var ours, loaded, linked, others []cost
		var fresh []int
		layers := 0
		for _, name := range m.names {
			c, err := b.combine(ctx, s, name, known)
			if err != nil {
				return err
			}
			links, err := b.links(ctx, c.pulled.layers)
			if err != nil {
				return err
			}
			ours, loaded, linked, others = append(
				ours, c.pulled,
			), append(
				loaded, c.loaded,
			), append(
				linked, c.linked,
			), append(
				others, links,
			)
			layers, fresh = max(layers, c.pulled.layers), append(fresh, c.fresh)
		}
		typical := medianOf(ours, cost.time)
		slices.Sort(fresh)
		t.row(
			m.about, layers, fresh[len(fresh)/2], typical, quantile(times(ours), 1),
			medianOf(loaded, cost.time), medianOf(linked, cost.time), medianOf(linked, cost.cpuTime),
			"that many links alone", medianOf(others, cost.time), ratios(ours, others, wallRatio),
		)
		b.aim("combination, "+m.about+", ms", milliseconds(typical), 40, "%.1f")
	}
	after, err := b.programs()
	if err != nil {
		return err
	}
	fmt.Fprintln(b.out, t)
	b.aim("combination: programs of Nix started, evaluations among them", float64(after-before), 0, "%.0f")
	return nil
}

// combined is what an image costs from its request on: until its manifest is there, until a client
// has what is new of it, and until all its layers are linked into its repository.
type combined struct {
	pulled, loaded, linked cost
	fresh                  int // layers that no image had before
}

// layerSet are layers of images that were served.
type layerSet map[digest.Digest]bool

// add returns how many layers of an image are not in the set yet.
func (s layerSet) add(m v1.Manifest) (fresh int) {
	before := len(s)
	for _, l := range m.Layers {
		s[l.Digest] = true
	}
	return len(s) - before
}

func (b *bench) combine(ctx context.Context, s *server, name string, known layerSet) (c combined, err error) {
	before, err := s.usage()
	if err != nil {
		return c, err
	}
	started := time.Now()
	m, err := s.pull(ctx, name)
	if err != nil {
		return c, err
	}
	c.pulled = cost{wall: time.Since(started), layers: len(m.Layers)}
	c.fresh = known.add(m)
	for _, blob := range []digest.Digest{m.Config.Digest, m.Layers[0].Digest} {
		if _, err := s.blob(ctx, name, blob); err != nil {
			return c, err
		}
	}
	c.loaded.wall = time.Since(started)
	for {
		owed, err := filepath.Glob(filepath.Join(b.storage(), "nix", "v1", "links", "*"))
		if err != nil {
			return c, err
		}
		if len(owed) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.linked.wall = time.Since(started)
	after, err := s.usage()
	c.linked.cpu = after.cpu - before.cpu
	return c, err
}

// links writes as many links to layers as an image has, as both registries do it to make layers
// part of a repository: by upstream's driver, which waits twice for the disk for each, and 32 at a
// time.
func (b *bench) links(ctx context.Context, n int) (cost, error) {
	dir, err := os.MkdirTemp(b.dir, "links-")
	if err != nil {
		return cost{}, err
	}
	defer os.RemoveAll(dir)
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: 100})
	started := time.Now()
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(32)
	for i := range n {
		layer := digest.FromString(fmt.Sprint(i))
		all.Go(func() error {
			return driver.PutContent(ctx, "/_layers/sha256/"+layer.Encoded()+"/link", []byte(layer))
		})
	}
	err = all.Wait()
	return cost{wall: time.Since(started)}, err
}

func times(costs []cost) []time.Duration {
	all := make([]time.Duration, len(costs))
	for i, c := range costs {
		all[i] = c.wall
	}
	return all
}
