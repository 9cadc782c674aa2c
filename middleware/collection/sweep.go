package collection

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/middleware/paths"
)

// An ownRun is the run of this process.
type ownRun struct {
	c      *Collector
	name   string
	begun  time.Time
	paused time.Time // when writing the record of the sweep began; zero: it did not
	cut    bool      // the sweep had no time for all
}

// begin condemns candidates.
func (c *Collector) begin(ctx context.Context, f *found) (*ownRun, error) {
	names, err := runsOf(ctx, c.gate.StorageDriver)
	if err != nil {
		return nil, err
	}
	own := &ownRun{c: c, name: newName(names), begun: c.gate.view.now()}
	if len(f.lists) > 0 { // before the record, so that whoever knows of the run knows the candidates
		of := make(list, len(f.lists))
		for repository, these := range f.lists {
			of[repository] = these.candidates()
		}
		if err := write(ctx, c.gate.StorageDriver, path.Join(listsDir, own.name), of); err != nil {
			return nil, err
		}
	}
	return own, own.put(ctx, runRecord{Phase: condemned, Seconds: int(condemnedTime.Seconds())})
}

func (o *ownRun) put(ctx context.Context, record runRecord) error {
	record.At = o.begun.UTC()
	return write(ctx, o.c.gate.StorageDriver, path.Join(runsDir, o.name), record)
}

// began is when the run began, by the clock of the storage.
func (o *ownRun) began(ctx context.Context) (time.Time, error) {
	info, err := o.c.gate.StorageDriver.Stat(ctx, path.Join(runsDir, o.name))
	if err != nil {
		return time.Time{}, fmt.Errorf("looking at the record of run %s: %w", o.name, err)
	}
	return info.ModTime(), nil
}

// errSlow is of a run that others believe to have died by now.
var errSlow = errors.New("looking for what stays took too long: is the storage slow?")

// pause has all registries refuse writes.
func (o *ownRun) pause(ctx context.Context) error {
	now := o.c.gate.view.now()
	if atLeast(o.begun, now)+2*settleTime > condemnedTime {
		return errSlow
	}
	o.paused = now
	return o.put(ctx, runRecord{Phase: sweeping, Seconds: int(sweepTime.Seconds())})
}

// inTime tells whether something may be deleted still.
func (o *ownRun) inTime() bool { return atLeast(o.paused, o.c.gate.view.now()) < deleteTime }

// end ends the run, also when ctx has ended, and removes records of runs that are long over.
func (o *ownRun) end(ctx context.Context, failed bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	swept := !o.paused.IsZero()
	rest := swept && (failed || o.cut)
	if err := o.put(ctx, runRecord{Phase: ended, Swept: swept, Rest: rest}); err != nil {
		return err
	}
	storage := o.c.gate.StorageDriver
	if !rest {
		if err := remove(ctx, storage, path.Join(sparedDir, o.name)); err != nil {
			return err
		}
	}
	names, err := runsOf(ctx, storage)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name >= o.name { // of two that end at a time, the later one's record stays
			break
		}
		var record runRecord
		there, err := read(ctx, storage, path.Join(runsDir, name), &record)
		if err != nil {
			return err
		}
		if !there || atMost(record.At, o.begun) < keptTime {
			continue
		}
		for _, dir := range []string{runsDir, listsDir, sparedDir} {
			if err := remove(ctx, storage, path.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// errLate ends a sweep that has no time left.
var errLate = errors.New("no time left")

// sweep deletes what is left: manifests first, so that no pull begins of them, then links, and blobs
// at last. So there is no link to a blob that is not there, at any moment.
func (c *Collector) sweep(ctx context.Context, own *ownRun, f *found) (Report, error) {
	report := f.report()
	report.Rest = f.rest
	// A call that goes on when writes are permitted again could delete what was stored anew.
	ctx, cancel := context.WithTimeout(ctx, deleteTime)
	defer cancel()
	var manifests, links, blobs []string
	for repository, list := range f.lists {
		if len(list.manifests) > 0 {
			entries, err := c.entries(ctx, repository, list.manifests)
			if err != nil {
				return Report{}, err
			}
			manifests = append(manifests, entries...)
		}
		for _, dgst := range list.manifests.digests() {
			manifests = append(manifests, paths.Revision(repository, dgst))
		}
		for _, dgst := range list.layers.digests() {
			links = append(links, paths.Layer(repository, dgst))
		}
	}
	for _, dgst := range f.blobs.digests() {
		blobs = append(blobs, paths.Blob(dgst))
	}
	var mu sync.Mutex
	count := func(size int64) {
		mu.Lock()
		defer mu.Unlock()
		report.add(size)
	}
	for _, stage := range []struct {
		dirs  []string
		count func(int64)
	}{{manifests, nil}, {links, nil}, {blobs, count}} {
		err := c.deleteAll(ctx, own, stage.dirs, stage.count)
		if errors.Is(err, errLate) {
			logrus.Info("nix: what is left is collected the next time, as writes may not wait any longer")
			own.cut, report.Rest = true, true
			break
		}
		if err != nil {
			return report, err
		}
	}
	return report, c.forget(ctx, f)
}

// entries are those of manifests in the indexes of tags.
func (c *Collector) entries(ctx context.Context, repository string, manifests set) ([]string, error) {
	tags, err := listed(ctx, c.gate.StorageDriver, paths.Tags(repository))
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, tag := range tags {
		index := paths.TagIndex(repository, tag)
		these, err := c.reader.digests(ctx, index)
		if err != nil {
			return nil, err
		}
		for _, dgst := range these {
			if manifests.has(dgst) {
				dirs = append(dirs, path.Join(index, dgst.Encoded()))
			}
		}
	}
	return dirs, nil
}

// deleteAll deletes directories. For blobs, it counts their bytes.
func (c *Collector) deleteAll(ctx context.Context, own *ownRun, dirs []string, count func(size int64)) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	for _, dir := range dirs {
		all.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, callTime)
			defer cancel()
			var size int64
			if count != nil {
				info, err := c.gate.StorageDriver.Stat(ctx, path.Join(dir, "data"))
				if isGone(err) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("looking at %s: %w", dir, err)
				}
				size = info.Size()
			}
			if !own.inTime() {
				return errLate
			}
			if err := remove(ctx, c.gate.StorageDriver, dir); err != nil {
				return err
			}
			if count != nil {
				count(size)
			}
			if late := atLeast(own.paused, c.gate.view.now()); late > sweepTime {
				logrus.Errorf("nix: the storage took %v to delete %s: what was pushed meanwhile may lack it",
					late-deleteTime, dir)
			}
			return nil
		})
	}
	return all.Wait()
}

// forget clears caches of descriptors that several processes share.
func (c *Collector) forget(ctx context.Context, f *found) error {
	ctx = withForgetting(ctx)
	for repository, list := range f.lists {
		named, err := reference.WithName(repository)
		if err != nil {
			continue // no registry serves it
		}
		repo, err := c.namespace.Repository(ctx, named)
		if err != nil {
			return fmt.Errorf("opening repository %s: %w", repository, err)
		}
		blobs := repo.Blobs(ctx)
		for _, dgst := range slices.Concat(list.manifests.digests(), list.layers.digests()) {
			_, _ = blobs.Stat(ctx, dgst)
		}
	}
	return nil
}

// size is -1 if there is no such blob.
func (c *Collector) size(ctx context.Context, dgst digest.Digest) (int64, error) {
	info, err := c.gate.StorageDriver.Stat(ctx, paths.BlobData(dgst))
	if isGone(err) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("looking at blob %s: %w", dgst, err)
	}
	return info.Size(), nil
}

func (r *Report) add(size int64) {
	if size >= 0 {
		r.Blobs++
		r.Bytes += size
	}
}
