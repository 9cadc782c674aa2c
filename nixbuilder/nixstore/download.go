package nixstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// arrivalPause is how long it may take until an arrived path is noticed.
const arrivalPause = 50 * time.Millisecond

// downloadsAtOnce is how many paths are downloaded at a time, as later Nix has it.
const downloadsAtOnce = 16

// ErrNotDownloaded means that binary caches do not give what they say they have.
var ErrNotDownloaded = errors.New("not downloaded")

// A download is under way: Nix fills its store with what binary caches have of an image. Paths that
// have arrived can be used meanwhile.
type download struct {
	closure []store.PathInfo
	stop    context.CancelFunc
	done    chan struct{} // closed at the end

	mu      sync.Mutex
	absent  map[store.Path]bool
	arrived chan struct{} // closed when something has arrived, and replaced
	err     error         // that ended it, once done is closed
}

// startDownload begins to fetch targets, which are outputs of an image. The other outputs are in the
// store. It returns nil if binary caches do not tell enough about them. The download has conn until
// it ends, and calls ended then. The closure can't be collected until conn is put back.
func (s *Store) startDownload(
	ctx context.Context, conn *daemon.Conn, outputs []store.Path, targets []daemon.DerivedPath,
	missing daemon.Missing, ended func(),
) (*download, error) {
	coming, err := substitutable(ctx, conn, missing.WillSubstitute)
	if err != nil || coming == nil {
		return nil, err
	}
	d := &download{done: make(chan struct{}), absent: make(map[store.Path]bool), arrived: make(chan struct{})}
	for _, info := range coming {
		d.absent[info.Path] = true
	}
	if d.closure, err = d.closureOf(ctx, conn, outputs, coming); err != nil {
		if errors.As(err, new(*daemon.Error)) {
			return nil, nil // something was collected before it had a root, and is to be downloaded, too
		}
		return nil, err
	}
	watcher, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	ctx, d.stop = context.WithCancel(ctx)
	go func() {
		defer ended()
		watching, stopWatching := context.WithCancel(ctx)
		var watched sync.WaitGroup
		watched.Go(func() {
			defer s.daemons.Put(watcher)
			d.watch(watching, watcher)
		})
		err := s.fetch(ctx, conn, targets, missing)
		stopWatching()
		watched.Wait()
		d.end(err)
	}()
	return d, nil
}

// substitutable is what binary caches know about paths, nil if they do not know all of them or not
// their sizes.
func substitutable(ctx context.Context, conn *daemon.Conn, paths []store.Path) ([]store.PathInfo, error) {
	infos, err := conn.SubstitutableInfos(ctx, paths, nil)
	if err != nil && !errors.As(err, new(*daemon.Error)) {
		return nil, err
	}
	noSize := func(info store.PathInfo) bool { return info.NarSize == 0 } // not every cache says it
	if len(infos) < len(paths) || slices.ContainsFunc(infos, noSize) {
		return nil, nil // a cache may just have gone down
	}
	return infos, nil
}

// closureOf is the closure of outputs: what is coming, and what is there. It keeps all of it from
// being collected.
func (d *download) closureOf(
	ctx context.Context, conn *daemon.Conn, outputs []store.Path, coming []store.PathInfo,
) ([]store.PathInfo, error) {
	needed := slices.Clone(outputs)
	for _, info := range coming {
		needed = append(needed, info.References...)
	}
	slices.Sort(needed)
	needed = slices.DeleteFunc(slices.Compact(needed), func(p store.Path) bool { return d.absent[p] })
	if err := conn.AddTempRoots(ctx, needed); err != nil {
		return nil, err
	}
	there, err := conn.Closure(ctx, needed)
	if err != nil {
		return nil, err
	}
	closure := append(coming, there...)
	slices.SortFunc(closure, func(a, b store.PathInfo) int { return strings.Compare(string(a.Path), string(b.Path)) })
	all := make([]store.Path, len(closure))
	for i, info := range closure {
		all[i] = info.Path
	}
	return closure, conn.AddTempRoots(ctx, all)
}

// fetch runs what is downloaded and not built. The error is ErrNotDownloaded if binary caches do not
// give what they said they have.
func (s *Store) fetch(
	ctx context.Context, conn *daemon.Conn, targets []daemon.DerivedPath, missing daemon.Missing,
) error {
	if err := conn.Override(ctx, map[string]string{"max-jobs": strconv.Itoa(downloadsAtOnce)}); err != nil {
		return err
	}
	_, err := s.run(ctx, conn, targets, missing, s.newBuildLog())
	err = cmp.Or(err, conn.Override(ctx, nil))
	failed := (*buildError)(nil)
	switch {
	case !errors.As(err, &failed):
		return err
	case failed.silent:
		return explain(failed)
	default:
		return fmt.Errorf("%w: %w", ErrNotDownloaded, failed)
	}
}

// watch notes which paths have arrived, until ctx ends.
func (d *download) watch(ctx context.Context, conn *daemon.Conn) {
	for {
		select {
		case <-time.After(arrivalPause):
		case <-ctx.Done():
			return
		}
		d.mu.Lock()
		asked := make([]store.Path, 0, len(d.absent))
		for p := range d.absent {
			asked = append(asked, p)
		}
		d.mu.Unlock()
		there, err := conn.ValidPaths(ctx, asked)
		if err != nil {
			return // the download goes on, and is noticed at its end
		}
		d.mu.Lock()
		for _, p := range there {
			delete(d.absent, p)
		}
		if len(there) > 0 {
			close(d.arrived)
			d.arrived = make(chan struct{})
		}
		d.mu.Unlock()
	}
}

func (d *download) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err = err; err == nil {
		clear(d.absent)
	}
	close(d.done)
}

// await returns when paths are in the store.
func (d *download) await(ctx context.Context, paths []store.Path) error {
	for {
		d.mu.Lock()
		missing := slices.ContainsFunc(paths, func(p store.Path) bool { return d.absent[p] })
		arrived, err := d.arrived, d.err
		d.mu.Unlock()
		if !missing {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-arrived:
		case <-d.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// close ends the download, if it has not ended, and returns when its connection can be used again.
func (d *download) close() {
	d.stop()
	<-d.done
}
