package binarycache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/weighted"
)

const (
	// lookupsAtOnce bounds the narinfos that are asked for at a time, for one closure.
	lookupsAtOnce = 32
	// maxPaths bounds the paths of a closure.
	maxPaths = 100_000
	// narinfosKept bounds the narinfos in memory, in bytes. Most have about 1 KB.
	narinfosKept = 20 << 20
	// A cache is not asked again for an archive that is not what was signed before this time is
	// over.
	damagedFor  = time.Minute
	damagedKept = 10_000
)

// MissingError means that no binary cache has an acceptable copy of Path. Its text is fit for
// clients.
type MissingError struct {
	Path store.Path
	// Reason completes "PATH can't be downloaded: …".
	Reason string
	// Damaged means that a cache has said that it has the path, and has no archive that is what was
	// signed. That cache is left out the next time, and another one may have the path.
	Damaged bool
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s can't be downloaded: %s", e.Path.Name(), e.Reason)
}

// Caches are binary caches. They are safe for concurrent use.
type Caches struct {
	caches []*cache
	keys   []signature.PublicKey
	known  *weighted.Cache[store.Path, *Archive]
	// damaged has the reasons why archives of a cache were not what was signed.
	damaged *expirable.LRU[damage, string]
}

type damage struct {
	cache *cache
	path  store.Path
}

// A cache is one binary cache.
type cache struct {
	substituter
	options Options
	files   files
	share   *Share // nil: it is one that lookups depend on
	// said is the priority in the cache's own nix-cache-info, nil until it has been asked.
	said atomic.Pointer[int]
}

func newCaches(caches []*cache, keys []signature.PublicKey) *Caches {
	known := weighted.New[store.Path, *Archive](narinfosKept)
	return &Caches{
		caches:  caches,
		keys:    keys,
		known:   known,
		damaged: expirable.NewLRU[damage, string](damagedKept, nil, damagedFor),
	}
}

// An Archive is a store path that a binary cache has.
type Archive struct {
	*narInfo
	cache  *cache
	caches *Caches
}

// Closure finds the roots and all paths that they refer to, sorted by path. If no cache has one of
// them, the error is a *MissingError. After any other error, the same call may succeed later.
func (c *Caches) Closure(ctx context.Context, roots []store.Path) ([]*Archive, error) {
	ask := &lookup{Caches: c}
	if err := ask.rank(ctx); err != nil {
		return nil, err
	}
	var closure []*Archive
	seen := make(map[store.Path]bool)
	for next := roots; len(next) > 0; {
		var unseen []store.Path
		for _, p := range next {
			if !seen[p] {
				seen[p] = true
				unseen = append(unseen, p)
			}
		}
		if len(seen) > maxPaths {
			return nil, fmt.Errorf("asking for a closure: more than %d paths", maxPaths)
		}
		found := make([]*Archive, len(unseen))
		lookups, ctx := errgroup.WithContext(ctx)
		lookups.SetLimit(lookupsAtOnce)
		for i, p := range unseen {
			lookups.Go(func() (err error) {
				found[i], err = ask.find(ctx, p)
				return err
			})
		}
		if err := lookups.Wait(); err != nil {
			return nil, err
		}
		next = nil
		for _, a := range found {
			next = append(next, a.References...)
		}
		closure = append(closure, found...)
	}
	slices.SortFunc(closure, func(a, b *Archive) int { return cmp.Compare(a.Path, b.Path) })
	return closure, nil
}

// A lookup finds the paths of one closure. It does not ask a cache again that has failed.
type lookup struct {
	*Caches
	order   []*cache
	without map[*cache]bool // shares that do not answer

	mu     sync.Mutex
	failed map[*cache]error
}

// rank orders the caches by priority, those to be asked first at the beginning. Caches of the same
// priority stay in the order of the configuration. A cache that can't be asked for its priority is
// left out.
func (l *lookup) rank(ctx context.Context) error {
	l.failed = make(map[*cache]error)
	priorities := make(map[*cache]int)
	var all sync.WaitGroup
	l.without = make(map[*cache]bool)
	for _, c := range l.caches {
		if c.share != nil {
			if l.without[c] = !c.share.Usable(ctx); !l.without[c] {
				l.order = append(l.order, c)
			}
			continue
		}
		all.Go(func() {
			priority, err := c.rank(ctx)
			if err != nil {
				l.fail(c, fmt.Errorf("%s: %w", c.url.Redacted(), err))
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			priorities[c] = priority
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	first := len(l.order)
	for _, c := range l.caches {
		if l.failed[c] == nil && c.share == nil {
			l.order = append(l.order, c)
		}
	}
	slices.SortStableFunc(l.order[first:], func(a, b *cache) int { return cmp.Compare(priorities[a], priorities[b]) })
	return nil
}

// rank returns the cache's priority: that of its URL, or else the one that the cache says. It fails
// if the cache does not answer as a binary cache of this store.
func (c *cache) rank(ctx context.Context) (int, error) {
	said := c.said.Load()
	if said == nil {
		text, err := c.read(ctx, "nix-cache-info")
		if err != nil {
			return 0, fmt.Errorf("reading nix-cache-info: %w", err)
		}
		priority, err := parseCacheInfo(text)
		if err != nil {
			return 0, err
		}
		said = &priority
		c.said.Store(said)
	}
	if c.priority >= 0 {
		return c.priority, nil
	}
	return *said, nil
}

// find asks one cache after the other for a path.
func (l *lookup) find(ctx context.Context, p store.Path) (*Archive, error) {
	if known, ok := l.known.Get(p); ok && !l.without[known.cache] {
		return known, nil
	}
	missing := &MissingError{Path: p, Reason: "no binary cache has it"}
	for _, c := range l.order {
		if l.hasFailed(c) {
			continue
		}
		if reason, ok := l.damaged.Get(damage{c, p}); ok {
			missing.Reason = reason
			continue
		}
		text, err := c.read(ctx, hashPart(p)+".narinfo")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			l.fail(c, fmt.Errorf("%s: asking for %s: %w", c.url.Redacted(), p, err))
			continue
		}
		said, err := parseNarinfo(text, p, l.keys)
		if err != nil {
			what := errUntrusted
			if !errors.Is(err, errUntrusted) {
				what = errors.New("what it says of it can't be true") // its words are for the log
			}
			missing.Reason = fmt.Sprintf("a binary cache has it, but %v", what)
			logrus.Warnf("nix: %s in %s: %v", p, c.url.Redacted(), err)
			continue
		}
		found := &Archive{narInfo: said, cache: c, caches: l.Caches}
		l.known.Add(p, found, len(text))
		return found, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var failures []error
	for _, c := range l.caches {
		if l.failed[c] != nil && c.share == nil {
			failures = append(failures, l.failed[c])
		}
	}
	if len(failures) > 0 { // one of them may have it
		return nil, fmt.Errorf("looking for %s in binary caches: %w", p, errors.Join(failures...))
	}
	return nil, missing
}

// hashPart returns the hash of a path, which is the name of its narinfo.
func hashPart(p store.Path) string {
	hash, _, _ := strings.Cut(p.Base(), "-")
	return hash
}

func (l *lookup) hasFailed(c *cache) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed[c] != nil
}

func (l *lookup) fail(c *cache, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed[c] == nil {
		l.failed[c] = err
		if c.share != nil {
			c.share.Failed(err)
		}
	}
}

// read reads a small file.
func (c *cache) read(ctx context.Context, name string) ([]byte, error) {
	r := c.download(ctx, name)
	defer r.close()
	text, err := io.ReadAll(io.LimitReader(r, maxNarinfoBytes+1))
	if err == nil && len(text) > maxNarinfoBytes {
		err = fmt.Errorf("it is larger than %d bytes", maxNarinfoBytes)
	}
	return text, err
}
