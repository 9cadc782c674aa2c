package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// ErrClosed is the error of a Pool that was closed.
var ErrClosed = errors.New("the pool of connections to Nix is closed")

// Limits bound a Pool. Zeros stand for the defaults.
type Limits struct {
	// Conns is how many connections may be in use at a time; zero: 4. Get waits for one.
	Conns int
	// Idle is how many unused connections are kept; zero: 2.
	Idle int
	// TempRoots is how many temporary roots a connection may have and still be kept when it is put
	// back; zero: 10,000. Roots cost the daemon a file that the garbage collector reads, and keep
	// paths that nobody needs any more.
	TempRoots int
}

// replacementTimeout ends the opening of a replacement that hangs. Close waits for it.
const replacementTimeout = 30 * time.Second

// A Pool keeps connections for many users. It is safe for concurrent use.
type Pool struct {
	limits     Limits
	inUse      chan struct{} // one token per connection in use
	started    atomic.Int64
	closed     chan struct{}
	background sync.WaitGroup // replacements being opened

	mu         sync.Mutex
	open       OpenFunc
	generation int // counts the calls of Reset
	idle       []*Conn
	era        int // how often Uproot was called
	// worn has the connections with too many roots, and whether their replacement is ready.
	worn map[*Conn]bool
}

// NewPool makes a pool of connections opened with o. It opens none before the first Get.
func NewPool(runner *proc.Runner, o Options, l Limits) *Pool { return newPool(Opener(runner, o), l) }

// An OpenFunc opens a connection.
type OpenFunc func(context.Context) (*Conn, error)

// Opener opens connections as Open does.
func Opener(runner *proc.Runner, o Options) OpenFunc {
	return func(ctx context.Context) (*Conn, error) { return Open(ctx, runner, o) }
}

func newPool(open OpenFunc, l Limits) *Pool {
	l.Conns = cmp.Or(l.Conns, 4)
	l.Idle = cmp.Or(l.Idle, 2)
	l.TempRoots = cmp.Or(l.TempRoots, 10_000)
	return &Pool{
		open:   open,
		limits: l,
		inUse:  make(chan struct{}, l.Conns),
		closed: make(chan struct{}),
		worn:   map[*Conn]bool{},
	}
}

// Reset has connections opened in another way from now on. Idle ones end, and those in use do when
// they are put back.
func (p *Pool) Reset(open OpenFunc) {
	p.mu.Lock()
	p.open = open
	p.generation++
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		p.drop(c)
	}
}

// Started is how many connections, each with a process of its own, were opened so far.
func (p *Pool) Started() int64 { return p.started.Load() }

// Get returns a connection that has just answered, for the caller alone until Put. It waits while
// Limits.Conns are in use. It fails when ctx ends, when the Pool is closed, or if no daemon can be
// started.
func (p *Pool) Get(ctx context.Context) (*Conn, error) {
	select {
	case p.inUse <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a connection to Nix: %w", ctx.Err())
	case <-p.closed:
		return nil, ErrClosed
	}
	c, err := p.reuseOrOpen(ctx)
	if err != nil {
		<-p.inUse
	}
	return c, err
}

// reuseOrOpen finds an idle connection whose process still answers, or opens one.
func (p *Pool) reuseOrOpen(ctx context.Context) (*Conn, error) {
	for ctx.Err() == nil {
		c := p.popIdle()
		if c == nil {
			break
		}
		// Only an answer shows that the process lives, so it is asked about no path.
		if err := c.answers(ctx); err == nil {
			return c, nil
		}
		p.drop(c)
	}
	if p.isClosed() {
		return nil, ErrClosed
	}
	return p.start(ctx)
}

func (p *Pool) start(ctx context.Context) (*Conn, error) {
	p.mu.Lock()
	open, generation := p.open, p.generation
	p.mu.Unlock()
	c, err := open(ctx)
	if err != nil {
		return nil, err
	}
	p.started.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	c.generation, c.era = generation, p.era
	return c, nil
}

// Uproot ends the temporary roots that nobody needs any more: those of idle connections now, and those
// of the others when they are put back.
func (p *Pool) Uproot() {
	p.mu.Lock()
	p.era++
	var rooted []*Conn
	p.idle = slices.DeleteFunc(p.idle, func(c *Conn) bool {
		if c.TempRoots() > 0 {
			rooted = append(rooted, c)
			return true
		}
		c.era = p.era
		return false
	})
	p.mu.Unlock()
	for _, c := range rooted {
		p.drop(c)
	}
}

func (p *Pool) popIdle() *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	last := len(p.idle) - 1
	c := p.idle[last]
	p.idle = p.idle[:last]
	return c
}

// Put takes back what Get returned, which must not be used after that. Its temporary roots may end
// at any time from now on.
func (p *Pool) Put(c *Conn) {
	defer func() { <-p.inUse }()
	if c.TempRoots() >= p.limits.TempRoots && c.Err() == nil && !c.retired {
		p.replace(c)
	}
	if !p.keep(c) {
		p.drop(c)
	}
}

// keep makes a connection idle if it is good and needed.
func (p *Pool) keep(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	good := c.Err() == nil && !c.retired && c.generation == p.generation
	rooted := c.era != p.era && c.TempRoots() > 0
	if p.isClosed() || !good || rooted || p.worn[c] || len(p.idle) >= p.limits.Idle {
		return false
	}
	c.era = p.era
	p.idle = append(p.idle, c)
	return true
}

func (p *Pool) drop(c *Conn) {
	p.mu.Lock()
	delete(p.worn, c)
	p.mu.Unlock()
	c.Close()
}

// replace opens another connection for one with too many roots. That one stays in use until the
// other is ready, so nobody waits.
func (p *Pool) replace(worn *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, underWay := p.worn[worn]; underWay || p.isClosed() {
		return
	}
	p.worn[worn] = false
	p.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), replacementTimeout)
		defer cancel()
		fresh, err := p.start(ctx)
		if err != nil {
			p.mu.Lock()
			delete(p.worn, worn) // the next Put tries again
			p.mu.Unlock()
			return
		}
		if p.retire(worn) {
			p.drop(worn)
		}
		if !p.keep(fresh) {
			p.drop(fresh)
		}
	})
}

// retire tells whether a connection whose replacement is ready can be ended now. Put ends one that
// is in use.
func (p *Pool) retire(worn *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle, worn); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		return true
	}
	if _, known := p.worn[worn]; known {
		p.worn[worn] = true
	}
	return false
}

// Close ends the connections that are not in use; those in use end when they are put back. It can
// be called more than once.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.isClosed() {
		close(p.closed)
	}
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	p.background.Wait()
}

func (p *Pool) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}
