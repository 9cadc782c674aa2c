package collection

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

const (
	// youngest is how old a link must be to be a candidate's: a push takes less.
	youngest = 24 * time.Hour
	// condemnedTime is how long a run may look for what stays. pullTime is how long it then waits, so
	// that pulls which are under way spare what they need.
	condemnedTime = 4 * time.Hour
	pullTime      = 10 * time.Minute
	// sweepTime is how long writes are refused at most, also if the run dies. deleteTime is how much
	// of that has gone by when it stops deleting, and callTime how long one call of the storage may
	// take then.
	sweepTime  = 5 * time.Minute
	deleteTime = 4 * time.Minute
	callTime   = 20 * time.Second
	// keptTime is how long records of runs stay that are over, for registries that look seldom.
	keptTime = 24 * time.Hour
	// maxCandidates bounds what a run takes on: 75 bytes each in its list, and some 200 in memory.
	maxCandidates = 100_000
)

// A Built function tells which of some manifests of a repository Nix has built.
type Built func(ctx context.Context, repository string, manifests []digest.Digest) (map[digest.Digest]bool, error)

// A Collector collects in the storage of a Gate. Several may at a time, in whatever processes: each
// is safe without the others. One Collector makes one run at a time.
type Collector struct {
	gate      *Gate
	namespace distribution.Namespace
	reader    reader
	youngest  time.Duration
	max       int // candidates of a run
	wait      func(context.Context, time.Duration) error
}

// New returns the Collector of a registry whose storage is behind a Gate.
func New(gate *Gate, namespace distribution.Namespace, built Built) *Collector {
	return &Collector{
		gate: gate, namespace: namespace, reader: reader{gate.StorageDriver, built},
		youngest: youngest, max: maxCandidates,
		wait: func(ctx context.Context, d time.Duration) error {
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
	}
}

// A Report is what a run has deleted, or would delete.
type Report struct {
	// Repositories that lose something, sorted by name.
	Repositories []Repository
	// Blobs that no repository needs, and their bytes together.
	Blobs int
	Bytes int64
	// Rest tells that there is more than one run takes on, or than it had time for.
	Rest bool
}

// A Repository is what one loses.
type Repository struct {
	Name      string
	Manifests []digest.Digest
	Links     int
}

// Manifests is how many there are in all repositories.
func (r Report) Manifests() (n int) {
	for _, repository := range r.Repositories {
		n += len(repository.Manifests)
	}
	return n
}

// Look tells what a run would delete now, and changes nothing.
func (c *Collector) Look(ctx context.Context) (Report, error) {
	found, err := c.find(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := c.leaveOut(ctx, found, c.gate.view.now().Add(-c.youngest), nil); err != nil {
		return Report{}, err
	}
	report := found.report()
	for blob := range found.blobs {
		size, err := c.size(ctx, blob.digest())
		if err != nil {
			return Report{}, err
		}
		report.add(size)
	}
	return report, nil
}

// Collect makes one run. That takes some minutes, also if there is nothing to delete but candidates.
func (c *Collector) Collect(ctx context.Context) (report Report, err error) {
	found, err := c.find(ctx)
	if err != nil {
		return Report{}, err
	}
	own, err := c.begin(ctx, found)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, own.end(ctx, err != nil)) }()
	if len(found.blobs) == 0 {
		return Report{}, nil
	}
	// Every write knows the candidates after this, and spares those that it touches.
	if err := c.wait(ctx, settleTime); err != nil {
		return Report{}, err
	}
	since, err := own.began(ctx)
	if err != nil {
		return Report{}, err
	}
	since = since.Add(-c.youngest)
	if err := c.leaveOut(ctx, found, since, nil); err != nil {
		return Report{}, err
	}
	if len(found.lists) == 0 {
		return Report{}, nil
	}
	// Whoever pulls a candidate asks for another part of it meanwhile.
	if err := c.wait(ctx, pullTime); err != nil {
		return Report{}, err
	}
	if err := own.pause(ctx); err != nil {
		return Report{}, err
	}
	// No write goes on after this.
	if err := c.wait(ctx, settleTime); err != nil {
		return Report{}, err
	}
	if err := c.leaveOutSpared(ctx, found, own.name); err != nil {
		return Report{}, err
	}
	if err := c.leaveOut(ctx, found, since, slices.Collect(maps.Keys(found.lists))); err != nil {
		return Report{}, err
	}
	return c.sweep(ctx, own, found)
}

// find looks for candidates, and takes over those of runs that have died.
func (c *Collector) find(ctx context.Context) (*found, error) {
	before, err := c.leftOver(ctx)
	if err != nil {
		return nil, err
	}
	f := &found{lists: make(map[string]*remaining), blobs: make(set)}
	err = c.reader.each(ctx, func(repository string) error {
		if len(f.blobs) >= c.max {
			f.rest = true
			return nil
		}
		these, err := c.reader.candidates(ctx, repository)
		if err != nil {
			return fmt.Errorf("looking through repository %s: %w", repository, err)
		}
		these.Layers = append(these.Layers, before[repository]...)
		f.add(repository, these)
		return nil
	})
	return f, err
}

// leftOver has what runs were about to delete that have died, by repository. The manifests that
// explain these links may be deleted already. What was linked since is not among them.
func (c *Collector) leftOver(ctx context.Context) (map[string][]digest.Digest, error) {
	storage := c.gate.StorageDriver
	names, err := runsOf(ctx, storage)
	if err != nil {
		return nil, err
	}
	left := make(map[string][]digest.Digest)
	for _, name := range names {
		var record runRecord
		var of list
		if there, err := read(ctx, storage, path.Join(runsDir, name), &record); err != nil {
			return nil, err
		} else if !there || record.Phase == ended && !record.Rest {
			continue
		}
		file := path.Join(listsDir, name)
		if there, err := read(ctx, storage, file, &of); err != nil {
			return nil, err
		} else if !there {
			continue
		}
		info, err := storage.Stat(ctx, file)
		if err != nil {
			return nil, fmt.Errorf("looking at %s: %w", file, err)
		}
		for repository, these := range of {
			for _, dgst := range slices.Concat(these.Layers, these.Manifests) {
				takes, err := c.takesOver(ctx, name, repository, dgst, info.ModTime())
				if err != nil {
					return nil, err
				}
				if takes {
					left[repository] = append(left[repository], dgst)
				}
			}
		}
	}
	return left, nil
}

// takesOver tells of what a run has condemned whether it is still there, and nobody has spared or
// stored it since.
func (c *Collector) takesOver(
	ctx context.Context, run, repository string, dgst digest.Digest, condemned time.Time,
) (bool, error) {
	if size, err := c.size(ctx, dgst); size < 0 || err != nil {
		return false, err
	}
	if _, err := c.gate.StorageDriver.Stat(ctx, sparedFile(run, dgst)); !isGone(err) {
		return false, err
	}
	// A manifest whose link is there is found again, if it is a candidate.
	if there, err := c.reader.isSince(ctx, paths.Revision(repository, dgst), time.Time{}); there || err != nil {
		return false, err
	}
	stored, err := c.reader.isSince(ctx, paths.Layer(repository, dgst), condemned)
	return !stored, err
}

// leaveOut leaves out what anything but candidates refers to: in some repositories, or in all.
func (c *Collector) leaveOut(ctx context.Context, f *found, since time.Time, in []string) error {
	look := func(repository string) error {
		kept := make(set)
		keep := func(dgst digest.Digest) {
			if f.blobs.has(dgst) || f.lists[repository].has(dgst) {
				kept.add(dgst)
			}
		}
		if err := c.reader.kept(ctx, repository, f.lists[repository].candidates(), since, keep); err != nil {
			return fmt.Errorf("looking through repository %s: %w", repository, err)
		}
		f.leaveOut(repository, kept)
		return nil
	}
	pending, err := c.pending(ctx) // before the links that they become
	if err != nil {
		return err
	}
	f.leaveOutAll(pending)
	if in == nil {
		return c.reader.each(ctx, look)
	}
	for _, repository := range in {
		if err := look(repository); err != nil {
			return err
		}
	}
	return nil
}

// pending are the blobs that records of pending links name.
func (c *Collector) pending(ctx context.Context) (set, error) {
	dir := paths.State + "links"
	names, err := listed(ctx, c.gate.StorageDriver, dir)
	if err != nil {
		return nil, err
	}
	all := make(set)
	for _, name := range names {
		content, err := c.gate.GetContent(ctx, path.Join(dir, name))
		if err != nil && !isGone(err) {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		for _, dgst := range namedIn(content) {
			all.add(dgst)
		}
	}
	return all, nil
}

// leaveOutSpared leaves out the digests that were touched since a run has condemned them, the images
// that they are part of, and all that those are made of: who pulls one layer will ask for the others.
func (c *Collector) leaveOutSpared(ctx context.Context, f *found, run string) error {
	names, err := listed(ctx, c.gate.StorageDriver, path.Join(sparedDir, run))
	if err != nil || len(names) == 0 {
		return err
	}
	spared, leaves := make(set), make(set)
	for _, name := range names {
		if dgst, ok := paths.DigestOf(name); ok {
			spared.add(dgst)
		}
	}
	for _, list := range f.lists {
		maps.Copy(leaves, list.manifests)
	}
	var touched []digest.Digest
	var mu sync.Mutex
	all, allCtx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	for _, manifest := range leaves.digests() {
		all.Go(func() error {
			parts, err := c.reader.parts(allCtx, manifest)
			if spared.has(manifest) || slices.ContainsFunc(parts, spared.has) {
				mu.Lock()
				defer mu.Unlock()
				touched = append(touched, manifest)
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	if err := c.reader.follow(ctx, touched, leaves, spared.add); err != nil {
		return err
	}
	f.leaveOutAll(spared)
	return nil
}

// Last is when the last run of any process began, the zero time if none did. A run whose record
// can't be read counts as one of long ago.
func (c *Collector) Last(ctx context.Context) (time.Time, error) {
	names, err := runsOf(ctx, c.gate.StorageDriver)
	if err != nil || len(names) == 0 {
		return time.Time{}, err
	}
	var record runRecord
	_, err = read(ctx, c.gate.StorageDriver, path.Join(runsDir, names[len(names)-1]), &record)
	return record.At, err
}
