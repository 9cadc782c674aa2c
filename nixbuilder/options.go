package nixbuilder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// Options say what images are made from and what that may cost.
type Options struct {
	// Packages is where the package set comes from.
	Packages Packages
	// Platforms are the OCI platforms of images whose names choose none; of more than one, an image
	// is an index.
	Platforms []string
	// Policy is about the packages that names ask for. Shell and Include are the operator's own and
	// not subject to it.
	Policy names.Policy
	// Shell is what the meta-package shell stands for, Include is in every image, where the set has
	// them.
	Shell, Include []string
	// Compression and Layers (of store paths, at most) are the form of images.
	Compression layer.Compression
	Layers      int
	// BuildTimeout is how long Nix may take for one derivation.
	BuildTimeout time.Duration
	// Builds has what binary caches don't have built. Else it is refused.
	Builds bool
	// LogToClients has clients told the last lines of a failed build; else they are in the log
	// alone.
	LogToClients bool
	// BuildTotal is how long all that Nix does for one image may take, with packing it; what is
	// built for its evaluation has as long of its own. Waiting for other images does not count.
	BuildTotal time.Duration
	// Concurrency is how many images Nix may build or download for at a time. Others wait. Those of
	// revisions that clients chose take ClientShare of it.
	Concurrency int
	// MaxBytes is how large the store paths of an image may be together, as NARs.
	MaxBytes int64
	// Storeless has images made straight from Caches. Only what they don't have goes through a Nix
	// store, if there is one.
	Storeless bool
	Caches    binarycache.Options
	// Settings are handed to Nix, by the names of nix.conf.
	Settings map[string]string
	// EvaluationBytes of memory and EvaluationTime of a processor are what one evaluation may use;
	// one that fetches may take FetchTime longer, of a processor and by the clock.
	EvaluationBytes int64
	EvaluationTime  time.Duration
	FetchTime       time.Duration
	// AllowedURIs are prefixes of what package sets may fetch while they are evaluated; none: they
	// have no network.
	AllowedURIs []string
	// ImportFromDerivation lets package sets read what is built while they are evaluated. It takes
	// a Nix store: a Builder that is storeless can't.
	ImportFromDerivation bool
	// CacheDir is for copies of package sets and scratch files, of which CacheBytes stay together,
	// those used last; zero: no bound.
	CacheDir   string
	CacheBytes int64
}

// Packages is where a package set comes from, the one field of the first three that is not empty,
// and what it can look up. Directories of fetched sets, and what is remembered of commits, are the
// Builder's to choose.
type Packages struct {
	// Path is a directory with a default.nix or flake.nix, or a .nix file.
	Path    string
	Channel source.ChannelOptions
	Git     source.GitOptions
	// NixPath are other sets, by the names that this one can look them up by between angle
	// brackets. They look up nothing themselves, and clients choose nothing of theirs.
	NixPath map[string]Packages
	// Config is the argument of that name, which the set has to take, as JSON; empty: the set gets
	// an empty one if it takes one.
	Config string
}

// open makes the source with all that its results depend on. It keeps what it fetches or copies
// below dir, and in state, if there is one, what clients may choose.
func (p Packages) open(
	runner *proc.Runner,
	watches *source.Watches,
	dir string,
	settings source.Variant,
	state records.State,
	recall source.Recall,
) (*source.Variants, error) {
	if state != nil {
		p.Channel.Memory = newSightings(state, "channel", p.Channel.Archives)
		p.Git.Memory = newSightings(state, "git", p.Git.Name())
	}
	set, err := p.openSet(runner, watches, dir)
	if err != nil {
		return nil, err
	}
	nixPath := make(map[string]source.Source, len(p.NixPath))
	for name, other := range p.NixPath {
		other.Channel.Tags, other.Git.Tags = source.Tags{source.AnyTag}, source.Tags{source.AnyTag} // those of records
		if nixPath[name], err = other.openSet(runner, watches, filepath.Join(dir, "nixpath", name)); err != nil {
			return nil, fmt.Errorf("packages.nixpath.%s: %w", name, err)
		}
	}
	return source.NewVariants(set, settings, nixPath, recall), nil
}

// settings are those that the results of package sets depend on.
func (o Options) settings() (settings source.Variant) {
	if o.Packages.Git.Submodules {
		settings = append(settings, "submodules=true")
	}
	for name, other := range o.Packages.NixPath {
		if other.Git.Submodules {
			settings = append(settings, "submodules.nixpath."+name+"=true")
		}
	}
	if o.ImportFromDerivation {
		settings = append(settings, "importfromderivation=true")
	}
	if o.Packages.Config != "" {
		settings = append(settings, "config="+o.Packages.Config)
	}
	if allowed := slices.Sorted(slices.Values(o.AllowedURIs)); !slices.Equal(allowed, defaultURIs) {
		settings = append(settings, "alloweduris="+strings.Join(allowed, " "))
	}
	return settings
}

// defaultURIs are the AllowedURIs that revisions do not name.
var defaultURIs = []string{"https://"}

func (p Packages) openSet(runner *proc.Runner, watches *source.Watches, dir string) (source.Source, error) {
	switch {
	case p.Channel.Name != "":
		p.Channel.Dir = filepath.Join(dir, "channels")
		return source.NewChannel(p.Channel)
	case p.Git.URL != "":
		p.Git.Dir = filepath.Join(dir, "git-"+records.Key(p.Git.URL)[:16])
		return source.NewGit(runner, p.Git)
	default:
		return source.NewPath(watches, p.Path, filepath.Join(dir, "paths"))
	}
}

// evaluator opens Nix for evaluations alone.
func (o Options) evaluator(
	ctx context.Context, runner *proc.Runner, read eval.Realise, grown func(),
) (*eval.Evaluator, error) {
	if err := runner.Enclose(o.CacheDir); err != nil {
		logrus.WithError(err).
			Warn("nix: cachedir, which has copies of package sets, can't be closed to other users of this machine")
	}
	scratch := filepath.Join(o.CacheDir, "evaluations")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, fmt.Errorf("making the cache directory: %w", err)
	}
	removeLeftovers(scratch)
	if !o.ImportFromDerivation {
		read = nil
	}
	return eval.New(ctx, runner, eval.Options{
		Memory: o.EvaluationBytes, CPU: o.EvaluationTime, FetchTime: o.FetchTime, AllowedURIs: o.AllowedURIs, Config: o.Packages.Config, ScratchDir: scratch,
		Realise: read, HostEnv: o.nixStore().Environment(), MaxBytes: o.CacheBytes, Grown: grown,
	})
}

// Check tries out whether the package set, as it is now, can be used with the Nix of this machine.
// It neither builds nor keeps anything, but below CacheDir. A fault is what is to be mended in the
// set or the options; err is that it can't be told here and now.
func Check(ctx context.Context, options Options) (fault, err error) {
	runner, _ := proc.New()
	evaluator, err := options.evaluator(ctx, runner, nil, nil)
	if err != nil {
		return nil, err
	}
	unknown := func(context.Context, string) (source.Variant, bool, error) { return nil, false, nil }
	set, err := options.Packages.open(
		runner, source.NewWatches(), filepath.Join(options.CacheDir, "sources"), options.settings(), nil,
		unknown,
	)
	if err != nil {
		return nil, err
	}
	pinned, err := set.Pin(ctx, source.Latest)
	if err != nil {
		return nil, err
	}
	system, err := SystemOf(options.Platforms[0])
	if err != nil {
		return nil, err
	}
	_, err = evaluator.Evaluate(ctx, sourceOf(pinned), system, append(slices.Clone(options.Include), options.Shell...))
	broken := (*eval.SourceError)(nil)
	switch {
	case !errors.As(err, &broken), broken.Unfetched, broken.Limit:
		return nil, err
	case options.ImportFromDerivation && !broken.Setup:
		return nil, fmt.Errorf("it may have to read what is built, and nothing is built here: %w", broken)
	}
	return broken, nil
}

// How tells how Nix builds on this machine, and what there is to be said against that and against
// how evaluations run, a line each. They are there in part if it fails.
func How(ctx context.Context, options Options) ([]string, error) {
	if !options.Builds || options.Storeless {
		return nil, nil
	}
	runner, warnings := proc.New()
	evaluator, err := options.evaluator(ctx, runner, nil, nil)
	if err != nil {
		return warnings, err
	}
	nix, err := nixstore.New(runner, options.nixStore(), nil)
	if err != nil {
		return warnings, err
	}
	defer nix.Close()
	lines, err := nix.How(ctx, evaluator)
	return append(warnings, lines...), err
}

// removeLeftovers cleans up after processes that were killed in the middle of an evaluation. What
// can't be removed is harmless.
func removeLeftovers(scratch string) {
	entries, err := os.ReadDir(scratch)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && strings.HasPrefix(entry.Name(), "eval-") && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(filepath.Join(scratch, entry.Name()))
		}
	}
}

// nixStore says what the Nix store may do.
func (o Options) nixStore() nixstore.Options {
	return nixstore.Options{
		BuildTimeout: o.BuildTimeout, Builds: o.Builds, LogToClients: o.LogToClients, Concurrency: o.Concurrency,
		MaxBytes: o.MaxBytes, Settings: o.Settings, Substituters: o.Caches.Substituters, CacheDir: o.CacheDir,
	}
}

// CheckLogins tells all that is wrong with the users and passwords in the URLs of binary caches,
// joined.
func CheckLogins(substituters []string) error { return nixstore.CheckLogins(substituters) }
