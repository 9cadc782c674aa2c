package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// answering is a peer that answers every request: yes, nothing is missing, nothing is valid. It
// replaces a daemon in tests of the Pool alone.
type answering struct {
	mu      sync.Mutex
	out     bytes.Buffer
	stopped bool
}

func (a *answering) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch op := newReader(b).uint(); op {
	case clientMagic:
		a.out.Write(words(daemonMagic, protocolVersion))
	case protocolVersion:
		a.out.Write(words("2.8.0", msgLast))
	case opSetOptions:
		a.out.Write(words(msgLast))
	case opQueryValidPaths:
		a.out.Write(words(msgLast, 0))
	case opAddTempRoot: // one at a time
		a.out.Write(words(msgLast, 1))
	}
	return len(b), nil
}

func (a *answering) Read(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return 0, io.EOF
	}
	return a.out.Read(b)
}

func (a *answering) Stop(time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
}

func (a *answering) Err() error { return nil }

// fakes opens connections to answering peers and remembers them.
type fakes struct {
	mu    sync.Mutex
	peers []*answering
	fail  error
}

func (f *fakes) open(ctx context.Context) (*Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	a := new(answering)
	f.peers = append(f.peers, a)
	return converse(ctx, a, Options{})
}

// live tells of each connection, in the order of opening, whether it is still open.
func (f *fakes) live() []bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var live []bool
	for _, a := range f.peers {
		a.mu.Lock()
		live = append(live, !a.stopped)
		a.mu.Unlock()
	}
	return live
}

func get(t *testing.T, p *Pool) *Conn {
	t.Helper()
	c, err := p.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPool(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits Limits
		use    func(*testing.T, *Pool, *fakes)
		live   []bool // connections in the order of their opening, when all is done
	}{
		{
			"one is used again and again", Limits{},
			func(t *testing.T, p *Pool, _ *fakes) {
				for range 3 {
					p.Put(get(t, p))
				}
			},
			[]bool{true},
		},
		{
			"no more are kept than needed", Limits{Conns: 3, Idle: 1},
			func(t *testing.T, p *Pool, _ *fakes) {
				a, b, c := get(t, p), get(t, p), get(t, p)
				p.Put(b)
				p.Put(a)
				p.Put(c)
			},
			[]bool{false, true, false},
		},
		{
			"roots end, of those that are idle and of those in use", Limits{Conns: 3, Idle: 3},
			func(t *testing.T, p *Pool, _ *fakes) {
				idle, inUse, rootless := get(t, p), get(t, p), get(t, p)
				for _, c := range []*Conn{idle, inUse} {
					if err := c.AddTempRoots(t.Context(), []store.Path{pathA}); err != nil {
						t.Fatal(err)
					}
				}
				p.Put(idle)
				p.Put(rootless)
				p.Uproot()
				p.Put(inUse)
			},
			[]bool{false, false, true},
		},
		{
			"roots end once", Limits{},
			func(t *testing.T, p *Pool, _ *fakes) {
				p.Uproot()
				for range 2 {
					c := get(t, p)
					if err := c.AddTempRoots(t.Context(), []store.Path{pathA}); err != nil {
						t.Fatal(err)
					}
					p.Put(c)
				}
			},
			[]bool{true},
		},
		{
			"one that died while idle", Limits{},
			func(t *testing.T, p *Pool, f *fakes) {
				p.Put(get(t, p))
				f.peers[0].Stop(0)
				p.Put(get(t, p))
			},
			[]bool{false, true},
		},
		{
			"one that broke in use", Limits{},
			func(t *testing.T, p *Pool, _ *fakes) {
				c := get(t, p)
				c.peer.Stop(0)
				if _, err := c.ValidPaths(t.Context(), nil); err == nil {
					t.Error("a dead daemon has answered")
				}
				p.Put(c)
				p.Put(get(t, p))
			},
			[]bool{false, true},
		},
		{
			"one with many roots is replaced", Limits{TempRoots: 2},
			func(t *testing.T, p *Pool, _ *fakes) {
				c := get(t, p)
				for range 2 {
					if err := c.AddTempRoots(t.Context(), []store.Path{pathA}); err != nil {
						t.Fatal(err)
					}
				}
				p.Put(c)
				p.background.Wait()
				p.Put(get(t, p))
			},
			[]bool{false, true},
		},
		{
			"one with many roots is used until it is replaced", Limits{TempRoots: 1},
			func(t *testing.T, p *Pool, f *fakes) {
				c := get(t, p)
				if err := c.AddTempRoots(t.Context(), []store.Path{pathA}); err != nil {
					t.Fatal(err)
				}
				f.mu.Lock() // nothing can be opened
				p.Put(c)
				same := get(t, p)
				f.mu.Unlock()
				if same != c {
					t.Error("another connection, although none could be opened")
				}
				p.background.Wait()
				p.Put(c)
			},
			[]bool{false, true},
		},
		{
			"no replacement", Limits{TempRoots: 1},
			func(t *testing.T, p *Pool, f *fakes) {
				c := get(t, p)
				if err := c.AddTempRoots(t.Context(), []store.Path{pathA}); err != nil {
					t.Fatal(err)
				}
				f.fail = errors.New("no more processes")
				p.Put(c)
				p.background.Wait()
				p.Put(get(t, p))
			},
			[]bool{true},
		},
		{
			"closed", Limits{},
			func(t *testing.T, p *Pool, _ *fakes) {
				a, b := get(t, p), get(t, p)
				p.Put(a)
				p.Close()
				p.Put(b)
				if _, err := p.Get(t.Context()); !errors.Is(err, ErrClosed) {
					t.Errorf("Get() = %v, want %v", err, ErrClosed)
				}
				p.Close()
			},
			[]bool{false, false},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := new(fakes)
			p := newPool(f.open, test.limits)
			test.use(t, p, f)
			p.background.Wait()
			if got := f.live(); !slices.Equal(got, test.live) || p.Started() != int64(len(test.live)) {
				t.Errorf("open connections: %v, want %v; Started() = %d", got, test.live, p.Started())
			}
			p.Close()
			if slices.Contains(f.live(), true) {
				t.Error("a connection has outlived the pool")
			}
		})
	}
}

// TestPoolEndsTheRetired puts back a connection that is good but shall not be used again.
func TestPoolEndsTheRetired(t *testing.T) {
	f := &fakes{}
	p := newPool(f.open, Limits{})
	t.Cleanup(p.Close)
	for range 2 {
		c, err := p.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Retire()
		p.Put(c)
	}
	if p.Started() != 2 || !f.peers[0].stopped || !f.peers[1].stopped {
		t.Errorf("%d connections were opened, want two that have ended", p.Started())
	}
}

// TestPoolReset ends connections that were opened in the old way, idle or in use.
func TestPoolReset(t *testing.T) {
	old, fresh := &fakes{}, &fakes{}
	p := newPool(old.open, Limits{})
	t.Cleanup(p.Close)
	get := func() *Conn {
		t.Helper()
		c, err := p.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	idle, used := get(), get()
	p.Put(idle)
	p.Reset(fresh.open)
	if live := old.live(); live[0] || !live[1] {
		t.Errorf("after a reset, of an idle connection and one in use there are %v", live)
	}
	p.Put(used)
	if old.live()[1] {
		t.Error("a connection that was opened in the old way is kept")
	}
	p.Put(get())
	p.Put(get())
	if p.Started() != 3 || len(fresh.peers) != 1 {
		t.Errorf("%d connections were opened, %d of them in the new way, want 3 and 1", p.Started(), len(fresh.peers))
	}
}

func TestPoolWaits(t *testing.T) {
	p := newPool(new(fakes).open, Limits{Conns: 1})
	defer p.Close()
	c := get(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Get(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Get() of a second one = %v, want %v", err, context.Canceled)
	}
	p.Put(c)

	var users sync.WaitGroup
	for range 20 {
		users.Go(func() {
			c, err := p.Get(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			p.Put(c)
		})
	}
	users.Wait()
	if p.Started() != 1 {
		t.Errorf("Started() = %d, want 1", p.Started())
	}
}

func TestPoolCannotOpen(t *testing.T) {
	f := &fakes{fail: errors.New("no such program")}
	p := newPool(f.open, Limits{Conns: 1})
	defer p.Close()
	for range 2 { // a failure does not use up the pool
		if _, err := p.Get(t.Context()); !errors.Is(err, f.fail) {
			t.Errorf("Get() = %v, want %v", err, f.fail)
		}
	}
}
