package cachedir

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"
)

// A Part is a directory of what can be got again. It is safe for concurrent use.
type Part interface {
	// Dir is where all of it is.
	Dir() string
	// Items are what could be removed, in any order.
	Items() []Item
}

// An Item is something that is removed as a whole.
type Item struct {
	// Used is when it was used last.
	Used time.Time
	// Remove removes it, and returns false if it is in use or can't be removed.
	Remove func() bool
}

const (
	// restShare is how much longer is waited between two looks at how much there is than the last
	// one took.
	restShare = 20
	// inUse is how long is waited, at least, for something to be no longer in use.
	inUse = 10 * time.Second
)

// A Bound keeps several parts together below a number of bytes. It is safe for concurrent use.
type Bound struct {
	bytes int64
	parts []Part // those that were there before the first Grown

	mu     sync.Mutex // guards what follows
	busy   bool       // somebody looks, or waits to look
	grown  bool       // since somebody began to look
	rested time.Time  // when to look next, at the earliest
	told   bool       // that all is in use
}

// NewBound keeps what is added to it below a number of bytes, zero: no bound. Nothing is removed
// before the first Grown.
func NewBound(bytes int64) *Bound { return &Bound{bytes: bytes} }

// Add adds parts. It is called before the first Grown.
func (b *Bound) Add(parts ...Part) { b.parts = append(b.parts, parts...) }

// Grown is called when something was added. It returns at once. What is too much is removed a
// moment later, or somewhat later where finding that out takes long.
func (b *Bound) Grown() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grown = true
	if b.busy || b.bytes == 0 {
		return
	}
	b.busy = true
	go b.watch()
}

func (b *Bound) watch() {
	for {
		b.mu.Lock()
		if !b.grown {
			b.busy = false
			b.mu.Unlock()
			return
		}
		rest := time.Until(b.rested)
		b.mu.Unlock()
		time.Sleep(rest)

		b.mu.Lock()
		b.grown = false
		b.mu.Unlock()
		begun := time.Now()
		fits := b.Shrink()
		b.mu.Lock()
		rest = restShare * time.Since(begun)
		if !fits {
			b.grown, rest = true, max(rest, inUse) // until what is in use is so no longer
		}
		b.rested = time.Now().Add(rest)
		b.mu.Unlock()
	}
}

// Shrink removes what is too much, and returns false if more than the bound is in use.
func (b *Bound) Shrink() (fits bool) {
	type item struct {
		Item
		part int
	}
	var items []item
	usage := make([]int64, len(b.parts))
	total, removed := int64(0), 0
	for i, part := range b.parts {
		usage[i] = Usage(part.Dir())
		total += usage[i]
	}
	before := total
	if total <= b.bytes {
		b.told = false
		return true
	}
	for i, part := range b.parts {
		for _, one := range part.Items() {
			items = append(items, item{one, i})
		}
	}
	slices.SortFunc(items, func(a, b item) int { return a.Used.Compare(b.Used) })
	for _, one := range items {
		if total <= b.bytes {
			break
		}
		if one.Remove() {
			removed++
			now := Usage(b.parts[one.part].Dir())
			total += now - usage[one.part]
			usage[one.part] = now
		}
	}
	if removed > 0 {
		logrus.Infof(
			"nix: of %s in the cache directory, %s stay (cachesize)", units.BytesSize(float64(before)),
			units.BytesSize(float64(total)),
		)
	}
	fits = total <= b.bytes
	if !fits && !b.told {
		logrus.Warnf(
			"nix: %s of the cache directory are in use, which is more than there may be (cachesize)",
			units.BytesSize(float64(total)),
		)
	}
	b.told = !fits
	return fits
}

// ErrTooMuch is that something takes more room than it may.
var ErrTooMuch = errors.New("it takes too much room")

// watchedEvery is how often it is looked at how much something has grown, at most.
const watchedEvery = 200 * time.Millisecond

// Within does something that fills directories, and ends its context when they take so many bytes
// more than when it began, which is seen a moment later. The error is ErrTooMuch then.
func Within(ctx context.Context, bytes int64, dirs []string, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	usage := func() (total int64) {
		for _, dir := range dirs {
			total += Usage(dir)
		}
		return total
	}
	done := make(chan struct{})
	go func() {
		before, wait := usage(), watchedEvery
		for {
			select {
			case <-done:
				return
			case <-time.After(wait):
			}
			begun := time.Now()
			if usage()-before > bytes {
				cancel(ErrTooMuch)
				return
			}
			wait = max(watchedEvery, restShare*time.Since(begun))
		}
	}()
	defer close(done)
	err := do(ctx)
	if err != nil && errors.Is(context.Cause(ctx), ErrTooMuch) {
		return ErrTooMuch
	}
	return err
}

// Usage is how many bytes the files below a directory take on disk, each once, whatever its names.
func Usage(dir string) (total int64) {
	seen := make(map[uint64]bool) // inodes with several names
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has just been removed
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[stat.Ino] {
			return nil
		}
		if !entry.IsDir() && stat.Nlink > 1 {
			seen[stat.Ino] = true
		}
		total += stat.Blocks * 512
		return nil
	})
	return total
}
