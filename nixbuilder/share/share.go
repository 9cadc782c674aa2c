package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	// maxWaiting bounds what waits to be copied. What is built beyond that is not shared.
	maxWaiting = 10_000
	// What could not be copied for so long is given up.
	maxAge = 7 * 24 * time.Hour
	// lookAgain is the time between two looks for what other processes have left to be copied.
	lookAgain = 10 * time.Second
	// A copy that failed is followed by a pause, which doubles up to a bound.
	firstPause = time.Second
	maxPause   = 5 * time.Minute
	// copyTime is how long one path and what it refers to may take. What was copied by then need not
	// be copied again.
	copyTime = time.Hour
	// The cache is believed to answer, or not to, for believed. It has answerTime to show that.
	believed   = 30 * time.Second
	answerTime = 3 * time.Second
)

// A Store tells about the Nix store, where what was built is.
type Store interface {
	// ValidOutputs are the outputs of a derivation that are in the store. It has none if the
	// derivation is gone.
	ValidOutputs(ctx context.Context, drv store.Path) ([]store.Path, error)
	// Valid are those of paths that are in the store.
	Valid(ctx context.Context, paths []store.Path) ([]store.Path, error)
}

// A Share is the binary cache that replicas share. It is safe for concurrent use.
type Share struct {
	options Options
	public  string
	nix     nix
	gateway *binarycache.Gateway // nil: Nix speaks to the cache itself
	waiting list
	woken   chan struct{}
	pause   time.Duration // the first one
	most    int           // that may wait

	mu       sync.Mutex
	counts   map[string]int     // by outcome
	inLine   int                // what waits, at the last look and since
	building map[store.Path]int // derivations, by how many images
	full     bool               // and the log says so
	asked    time.Time          // when the cache was asked last
	asking   chan struct{}      // closed when the answer is there; nil: nobody asks
	usable   bool
	silent   bool // the log says that it can't be read
}

// Open prepares the use of the cache that options name, which must have no faults. It does not ask
// it. Settings and env are those of Nix's other programs. What waits is kept in dir.
func Open(
	runner *proc.Runner, options Options, settings map[string]string, env []string, dir string,
) (*Share, error) {
	public, err := options.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("nix.share.secretkeyfile: %w", err)
	}
	s := &Share{
		options: options, public: public, nix: nix{runner, settings, env}, waiting: list{dir},
		woken: make(chan struct{}, 1), pause: firstPause, most: maxWaiting, building: make(map[store.Path]int),
		counts: make(map[string]int),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of what waits to be shared: %w", err)
	}
	if options.bucket() {
		if s.gateway, err = binarycache.OpenGateway(options.Cache()); err != nil {
			return nil, fmt.Errorf("nix.share.to: %w", err)
		}
	}
	return s, nil
}

// Close ends what Nix gets at a bucket by.
func (s *Share) Close() {
	if s.gateway != nil {
		s.gateway.Close()
	}
}

// PublicKey is the public half of the key that signs what is copied.
func (s *Share) PublicKey() string { return s.public }

// Substituter is the cache as Nix's setting substituters has it. Nix asks it before others unless
// its URL has a priority.
func (s *Share) Substituter() string {
	return s.options.at(s.readBase(), map[string]string{"priority": "0"}, nil)
}

// Owns tells whether a text of Nix's is about the cache.
func (s *Share) Owns(text string) bool {
	base := s.readBase()
	return base != "" && strings.Contains(text, base)
}

func (s *Share) readBase() string {
	if s.gateway != nil {
		return s.gateway.ReadURL()
	}
	return s.options.Shown()
}

// count counts an outcome of package metrics.
func (s *Share) count(outcome string) {
	metrics.Shared.Inc(outcome)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[outcome]++
}

func (s *Share) counted(outcome string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[outcome]
}

// Expect notes derivations that are about to be built. Done is called when that is over, however it
// ended, with the outputs that were built and that no derivation tells. From then on, what was built
// is copied. If this process ends before, the next one copies it.
func (s *Share) Expect(drvs []store.Path) (done func(outputs []store.Path)) {
	s.mu.Lock()
	for _, drv := range drvs {
		s.building[drv]++
	}
	s.mu.Unlock()
	s.add(drvs)
	return func(outputs []store.Path) {
		s.add(slices.Concat(drvs, outputs)) // another process may have found the first too early
		s.mu.Lock()
		for _, drv := range drvs {
			if s.building[drv]--; s.building[drv] == 0 {
				delete(s.building, drv)
			}
		}
		s.mu.Unlock()
		select {
		case s.woken <- struct{}{}:
		default:
		}
	}
}

// add has paths wait. What finds no place is not shared, which the log says once.
func (s *Share) add(paths []store.Path) {
	for _, p := range paths {
		switch room, first := s.room(); {
		case s.waiting.has(p):
		case !room:
			s.count(metrics.SharedDropped)
			if first {
				logrus.Warnf("nix: nix.share: %d store paths wait to be copied: what else is built is not shared", s.most)
			}
		default:
			if err := s.waiting.add(p); err != nil {
				s.count(metrics.SharedDropped)
				logrus.WithError(err).Warnf("nix: nix.share: %s is not shared", p.Name())
				continue
			}
			s.setInLine(func(n int) int { return n + 1 })
		}
	}
}

// room tells whether something may still wait, and whether it is the first time that it may not.
func (s *Share) room() (room, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inLine < s.most {
		return true, false
	}
	first = !s.full
	s.full = true
	return false, first
}

func (s *Share) setInLine(change func(int) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inLine = change(s.inLine)
	metrics.SharedWaiting.Set(float64(s.inLine))
	if s.inLine < s.most/2 {
		s.full = false
	}
}

// Usable tells whether the cache can be read, as of half a minute ago at most. It takes three
// seconds at most, and no time while the cache is known not to answer: it is asked behind then.
func (s *Share) Usable(ctx context.Context) bool {
	s.mu.Lock()
	if time.Since(s.asked) < believed {
		defer s.mu.Unlock()
		return s.usable
	}
	if s.asking == nil {
		s.asking = make(chan struct{})
		go s.ask(s.asking)
	}
	asking, silent := s.asking, s.silent
	s.mu.Unlock()
	if silent {
		return false
	}
	wait := time.NewTimer(answerTime)
	defer wait.Stop()
	select {
	case <-asking:
	case <-wait.C: // a file system that hangs does not heed the time
		s.Failed(fmt.Errorf("no answer in %v", answerTime))
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usable
}

// ask asks the cache, and closes answered.
func (s *Share) ask(answered chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	err := binarycache.Answers(ctx, s.options.Cache())
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing was copied to it yet
		s.Failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.silent {
		logrus.Infof("nix: nix.share.to: %s can be read again", s.options.Shown())
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		s.silent = false
	}
	s.asked, s.usable, s.asking = time.Now(), err == nil, nil
	close(answered)
}

// Failed has the cache left alone for a while, as it can't be read. The log says so once.
func (s *Share) Failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.silent {
		logrus.WithError(err).Warnf("nix: nix.share.to: %s can't be read: making images without it", s.options.Shown())
	}
	s.asked, s.usable, s.silent = time.Now(), false, true
}

// Dir is where a Share keeps what waits, below the directory of caches.
func Dir(cacheDir string) string { return filepath.Join(cacheDir, "share") }
