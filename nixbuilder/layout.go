package nixbuilder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layering"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// layoutPrefix is where the segments of the layout are kept.
const layoutPrefix = "layout"

// A layout is the map of heads that decides which store paths share a layer (package layering). It
// only grows, by immutable segments in the State. Segments are named by time and read in that
// order, and the first entry for a key wins. So replicas come to agree without locks. Where they do
// not for a moment, images are as correct and share a little less. The map's size is bounded by the
// names in the package sets, not by the images.
type layout struct {
	state records.State

	mu    sync.Mutex
	heads map[layering.Key]layering.Head
	read  map[string]bool // segments
}

func newLayout(state records.State) *layout {
	return &layout{state: state, heads: make(map[layering.Key]layering.Head), read: make(map[string]bool)}
}

// extend decides about all of a closure that the map does not know yet. It writes one segment, and
// so decides whole or not at all: keys that are not decided together depend on the order in which
// they come. It counts the keys that were added, and those that were known.
func (l *layout) extend(ctx context.Context, closure []store.PathInfo) (added, known int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx); err != nil {
		return 0, 0, err
	}
	heads, err := layering.Assign(closure, l.head)
	if err != nil {
		return 0, 0, err
	}
	keys := make(map[layering.Key]bool)
	for _, info := range closure {
		keys[layering.KeyOf(info.Path)] = true
	}
	if len(heads) > 0 {
		err = l.keep(ctx, heads)
	}
	return len(heads), len(keys) - len(heads), err
}

// head looks a key up. The caller has the lock.
func (l *layout) head(key layering.Key) (layering.Head, bool) {
	head, ok := l.heads[key]
	return head, ok
}

// group splits a closure into layers. If adds is set, what it decides is kept for all images. Else
// it holds for this image alone, and decided tells whether there was something to decide. What
// clients choose must not add: one image could keep all later ones from sharing layers.
func (l *layout) group(
	ctx context.Context, closure []store.PathInfo, budget int, adds bool,
) (groups [][]store.Path, decided bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	added, err := layering.Assign(closure, l.head)
	if err != nil {
		return nil, false, err
	}
	if len(added) > 0 { // others may have met these keys before
		if err := l.catchUp(ctx); err != nil {
			return nil, false, err
		}
		if added, err = layering.Assign(closure, l.head); err != nil {
			return nil, false, err
		}
	}
	head := l.head
	switch {
	case len(added) == 0:
	case adds:
		if err := l.keep(ctx, added); err != nil {
			return nil, false, err
		}
	default:
		decided = true
		alone := make(map[layering.Key]layering.Head, len(added))
		for _, h := range added {
			alone[h.Key] = h
		}
		head = func(key layering.Key) (layering.Head, bool) {
			if h, ok := l.head(key); ok {
				return h, true
			}
			h, ok := alone[key]
			return h, ok
		}
	}
	groups, err = layering.Group(closure, head, layering.Options{Budget: budget})
	return groups, decided, err
}

// catchUp reads the segments that are new, side by side, and adds them in their order.
func (l *layout) catchUp(ctx context.Context) error {
	segments, err := l.state.List(ctx, layoutPrefix)
	if err != nil {
		return fmt.Errorf("listing the layout: %w", err)
	}
	segments = slices.DeleteFunc(segments, func(segment string) bool { return l.read[segment] })
	contents := make([][]byte, len(segments))
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(records.AtOnce)
	for i, segment := range segments {
		reading.Go(func() (err error) {
			if contents[i], err = l.state.Get(ctx, layoutPrefix+"/"+segment); err != nil {
				return fmt.Errorf("reading layout segment %s: %w", segment, err)
			}
			return nil
		})
	}
	if err := reading.Wait(); err != nil {
		return err
	}
	for i, segment := range segments {
		var heads []layering.Head
		if err := json.Unmarshal(contents[i], &heads); err != nil {
			logrus.WithError(err).Warnf("nix: layout segment %s is damaged and left out", segment)
		}
		l.add(heads)
		l.read[segment] = true
	}
	return nil
}

func (l *layout) keep(ctx context.Context, added []layering.Head) error {
	record, err := json.Marshal(added)
	if err != nil {
		return err
	}
	var random [4]byte
	rand.Read(random[:])
	segment := fmt.Sprintf("%019d-%s", time.Now().UnixNano(), hex.EncodeToString(random[:]))
	if err := l.state.Put(ctx, layoutPrefix+"/"+segment, record); err != nil {
		return fmt.Errorf("writing layout segment %s: %w", segment, err)
	}
	l.read[segment] = true
	l.add(added)
	return nil
}

func (l *layout) add(heads []layering.Head) {
	for _, h := range heads {
		if _, ok := l.heads[h.Key]; !ok {
			l.heads[h.Key] = h
		}
	}
}
