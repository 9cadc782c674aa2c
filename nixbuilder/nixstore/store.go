package nixstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/docker/go-units"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	// warmConns is how many images whose packages are all there may ask the Nix store, and be
	// packed, beside those that Nix builds for.
	warmConns = 16
	// silenceBesides is how long a daemon that builds may say nothing, beside twice the time of a
	// derivation: one that another process builds may come first, and downloads may stall.
	silenceBesides = 5 * time.Minute
	// floatingCached is how much is kept in memory of the paths of outputs that float, in bytes.
	floatingCached = 4 << 20
)

// ErrNoStore means that no Nix daemon can be started, or none that has a store.
var ErrNoStore = errors.New("opening the Nix store")

// Options say what Nix may do for images.
type Options struct {
	// BuildTimeout is how long Nix may take for one derivation.
	BuildTimeout time.Duration
	// Builds has what binary caches don't have built. Else it is refused.
	Builds bool
	// LogToClients has clients told the last lines of a failed build. Else they are in the log alone.
	LogToClients bool
	// Concurrency is how many images Nix may build or download for at a time. Others wait. Those of
	// revisions that clients chose take limit.ClientShare of it.
	Concurrency int
	// MaxBytes is how large the store paths of an image may be together, as NARs.
	MaxBytes int64
	// StoreBytes is how large the Nix store of the machine may be, as NARs: Nix collects what no root
	// holds beyond that. Zero: nothing is collected.
	StoreBytes int64
	// Settings are handed to Nix, by the names of nix.conf.
	Settings map[string]string
	// Substituters are the binary caches of the configuration, which are asked for who has signed a
	// path.
	Substituters []string
	// Share is the binary cache that gets what is built; nil: there is none. ShareURL is where it is,
	// with a password if it has one.
	Share    Share
	ShareURL string
	// CacheDir is the home directory of Nix's programs. No client is told of it.
	CacheDir string
}

// A Store is the machine's Nix store. It is safe for concurrent use.
type Store struct {
	options     Options
	runner      *proc.Runner
	daemons     *daemon.Pool
	building    *limit.Shared // for images that Nix builds for
	downloading *limit.Shared // for images that it downloads all for
	reading     limit.Slots   // for what is built for an evaluation
	closures    *closures
	floating    *records.Table[store.Path] // by derivation and output
	collector   *collector

	mu     sync.Mutex
	shared bool // daemons ask Options.Share
}

// New prepares a Store. It starts no program, but writes the passwords of binary caches into a file
// below CacheDir, for Nix.
func New(runner *proc.Runner, options Options, state records.State) (*Store, error) {
	if err := options.writeNetrc(); err != nil {
		return nil, err
	}
	limits := daemon.Limits{Conns: 2*options.Concurrency + warmConns}
	daemons := daemon.NewPool(runner, options.daemon(false), limits)
	return &Store{
		options:     options,
		runner:      runner,
		daemons:     daemons,
		building:    limit.NewShared(options.Concurrency),
		downloading: limit.NewShared(options.Concurrency),
		reading:     limit.NewSlots(1),
		closures:    newClosures(),
		floating:    records.NewTable[store.Path](state, "floating", floatingCached),
		collector: newCollector(options.StoreBytes, func(ctx context.Context) (*daemon.Conn, error) {
			return daemon.Open(ctx, runner, options.daemon(false)) // it is nobody else's, whatever becomes of it
		}, daemons.Uproot),
	}, nil
}

// Close ends the connections to Nix that are idle, and a collection.
func (s *Store) Close() {
	s.collector.close()
	s.daemons.Close()
}

// Gone tells whether err means that Nix's daemon ended while it was asked. Another one may answer.
func Gone(err error) bool { return errors.Is(err, daemon.ErrGone) && !errors.Is(err, ErrNoStore) }

// TooLarge is what clients are told of an image whose store paths have too many bytes together.
func TooLarge(size, most int64) *status.Error {
	return status.Errorf(
		status.Denied, "the store paths of this image are %s together, %s are allowed",
		units.HumanSize(float64(size)), units.HumanSize(float64(most)),
	)
}

// open returns a connection, which is put back when it is not needed any more.
func (s *Store) open(ctx context.Context) (*daemon.Conn, error) {
	conn, err := s.daemons.Get(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	return conn, nil
}

// openRooted opens a connection that keeps paths from Nix's garbage collector, and tells which of them
// are not there.
func (s *Store) openRooted(
	ctx context.Context, paths []store.Path,
) (conn *daemon.Conn, absent []store.Path, err error) {
	if conn, err = s.open(ctx); err != nil {
		return nil, nil, err
	}
	err = conn.AddTempRoots(ctx, paths)
	var valid []store.Path
	if err == nil {
		valid, err = conn.ValidPaths(ctx, paths)
	}
	if err != nil {
		s.daemons.Put(conn)
		return nil, nil, err
	}
	for _, p := range paths {
		if !slices.Contains(valid, p) {
			absent = append(absent, p)
		}
	}
	return conn, absent, nil
}

// Environment is what Nix's programs find in theirs.
func (o Options) Environment() []string {
	return []string{
		"HOME=" + o.CacheDir,
		"PATH=" + os.Getenv("PATH"),
		// A remote builder that is down costs seconds, too. What the operator says comes first, and
		// so counts.
		"NIX_SSHOPTS=" + os.Getenv("NIX_SSHOPTS") + " -o ConnectTimeout=10 -o ServerAliveInterval=15",
	}
}

// Downloads are Nix's settings for all that it fetches from binary caches, or sends to one.
func (o Options) Downloads() map[string]string {
	settings := map[string]string{
		// A binary cache that is down costs seconds, not minutes, and one that keeps silent a
		// minute, not ten.
		"connect-timeout":          "5",
		"download-attempts":        "2",
		"stalled-download-timeout": "30",
		// What is mended in a cache is seen soon, not after an hour or a month. Nothing is asked for
		// often: what was downloaded is in the store.
		"narinfo-cache-negative-ttl": "60",
		"narinfo-cache-positive-ttl": "60",
	}
	if _, found := logins(o.Settings["substituters"] + " " + o.ShareURL); len(found) > 0 {
		settings["netrc-file"] = o.netrcFile()
	}
	return settings
}

// daemon says how Nix's daemon is spoken to. If it is shared, it asks the Share before all others.
func (o Options) daemon(shared bool) daemon.Options {
	settings := o.Downloads()
	settings["timeout"] = strconv.Itoa(int(o.BuildTimeout.Seconds()))
	settings["max-jobs"] = "auto" // as many as there are cores; clients of Nix don't read it from nix.conf
	maps.Copy(settings, o.Settings)
	if shared {
		// Where nix.conf decides, what it says stays.
		for setting, more := range map[string]string{
			"substituters": o.Share.Substituter(), "trusted-public-keys": o.Share.PublicKey(),
		} {
			if own, ok := settings[setting]; ok {
				settings[setting] = more + " " + own
			} else {
				settings["extra-"+setting] = more
			}
		}
	}
	for _, setting := range []string{"substituters", "extra-substituters"} {
		if urls, ok := settings[setting]; ok {
			settings[setting], _ = logins(urls)
		}
	}
	return daemon.Options{Settings: settings, Env: o.Environment(), Silence: 2*o.BuildTimeout + silenceBesides}
}

func (o Options) netrcFile() string { return filepath.Join(o.CacheDir, "netrc") }
