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

// A Part is a directory of things that can be had again. It is safe for concurrent use.
type Part interface {
	// Dir is the directory that holds all of it.
	Dir() string
	// Items lists what could be removed, in any order.
	Items() []Item
}

// An Item is something that is removed as a whole.
type Item struct {
	// Used is the time of its last use.
	Used time.Time
	// Remove removes it, and returns false if it is in use or can't be removed.
	Remove func() bool
}

const (
	// restShare: a pause between two looks at the sizes takes this many times as long as the look
	// before.
	restShare = 20
	// inUse is the shortest pause while too much is in use.
	inUse = 10 * time.Second
)

// A Bound keeps several parts, together, below a number of bytes. It is safe for concurrent use.
type Bound struct {
	bytes int64
	parts []Part // does not change after the first Grown

	mu     sync.Mutex // guards what follows
	busy   bool       // watch runs
	grown  bool       // since the last look began
	rested time.Time  // when the next look may begin
	told   bool       // the log says that too much is in use
}

// NewBound bounds the parts that are added to it to a number of bytes; zero: to none. It removes
// nothing before the first Grown.
func NewBound(bytes int64) *Bound { return &Bound{bytes: bytes} }

// Add adds parts. It is called before the first Grown.
func (b *Bound) Add(parts ...Part) { b.parts = append(b.parts, parts...) }

// Grown says that something was added. It returns at once. Removing what is too much begins a
// moment later, or somewhat later if finding that out takes long.
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
			b.grown, rest = true, max(rest, inUse) // look again, until less is in use
		}
		b.rested = time.Now().Add(rest)
		b.mu.Unlock()
	}
}

// Shrink removes what is too much. It returns false if more than the bound is in use.
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
			"nix: of %s in the cache directory, %s stay (cachesize)",
			units.BytesSize(float64(before)), units.BytesSize(float64(total)),
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

// ErrTooMuch means that something takes more room than it may.
var ErrTooMuch = errors.New("it takes too much room")

// watchedEvery is the shortest time between two looks at how much a directory has grown.
const watchedEvery = 200 * time.Millisecond

// Within calls do, which fills directories, and ends do's context when these take so many bytes
// more than at the beginning, or a moment later. It then fails with ErrTooMuch.
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

// Usage is how many bytes the files below a directory take on disk. A file with several names
// counts once.
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
