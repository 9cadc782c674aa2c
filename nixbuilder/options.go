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
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layering"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/nixstore"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/share"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// DefaultLayers is how many layers the store paths of an image get where nobody says.
const DefaultLayers = layering.DefaultBudget

// Options say what images are made from and what that may cost.
type Options struct {
	// Packages is where the package set comes from.
	Packages Packages
	// Platforms are the OCI platforms of images whose names choose none. With more than one, an
	// image is an index.
	Platforms []string
	// Policy bounds the packages that names ask for. Shell, CI, Foreign and Include are the
	// operator's own and not subject to it.
	Policy names.Policy
	// Shell are the packages of the meta-package shell, and CI those of ci. The latter brings
	// Foreign, too, where the set has them. Include are in every image, where the set has them.
	Shell, CI, Foreign, Include []string
	// Compression and Layers are the form of images. Layers is how many there are at most for store
	// paths.
	Compression compress.Compression
	Layers      int
	// BuildTimeout is how long Nix may take for one derivation.
	BuildTimeout time.Duration
	// Builds allows building what binary caches don't have. Else it is refused.
	Builds bool
	// LogToClients tells clients the last lines of a failed build. Else they are in the log alone.
	LogToClients bool
	// BuildTotal is how long Nix and packing may take for one image. Waiting for other images does
	// not count. What is built for an evaluation has as much time of its own.
	BuildTotal time.Duration
	// Concurrency is how many images Nix may build or download for at a time. Others wait. Images
	// of revisions that clients chose take limit.ClientShare of it.
	Concurrency int
	// MaxBytes is how large the store paths of an image may be together, as NARs.
	MaxBytes int64
	// StoreBytes is how large the machine's Nix store may be, as NARs. Beyond that, Nix collects what
	// no root holds. Zero: it does not.
	StoreBytes int64
	// Storeless makes images straight from Caches. Only what they don't have goes through a Nix
	// store, if there is one.
	Storeless bool
	Caches    binarycache.Options
	// Share is the binary cache that gets what is built here, and is asked before Caches.
	Share share.Options
	// Settings are handed to Nix, by the names of nix.conf.
	Settings map[string]string
	// EvaluationBytes of memory and EvaluationTime of a processor are what one evaluation may use.
	// One that fetches may take FetchTime longer, of a processor and by the clock.
	EvaluationBytes int64
	EvaluationTime  time.Duration
	FetchTime       time.Duration
	// AllowedURIs are prefixes of what package sets may fetch while they are evaluated. With none,
	// they have no network.
	AllowedURIs []string
	// ImportFromDerivation lets package sets read what is built while they are evaluated. It needs
	// a Nix store, and so excludes Storeless.
	ImportFromDerivation bool
	// CacheDir has copies of package sets and scratch files. CacheBytes of them stay together,
	// those used last. Zero is no bound.
	CacheDir   string
	CacheBytes int64
}

// Packages says where a package set comes from, by the one of the first three fields that is not
// empty, and what it can look up. The Builder sets directories for fetched sets, and what is
// remembered of commits.
type Packages struct {
	// Path is a directory with a default.nix or flake.nix, or a .nix file. PathKeep is how many of
	// its revisions stay in CacheDir; zero: 4.
	Path     string
	PathKeep int
	Channel  source.ChannelOptions
	Git      source.GitOptions
	// NixPath are other sets, by the names that this set can look them up by between angle
	// brackets. They look up nothing themselves, and clients choose nothing of theirs.
	NixPath map[string]Packages
	// Config is the set's argument config, as JSON. If it is empty, a set that takes one gets an
	// empty one. Else the set has to take one.
	Config string
}

// open makes the source. It keeps what it fetches or copies below dir, and what clients may choose
// in state, if there is one.
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

// settings are those that package sets' results depend on.
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

// defaultURIs are the AllowedURIs that no revision names.
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
		return source.NewPath(watches, p.Path, filepath.Join(dir, "paths"), p.PathKeep)
	}
}

// evaluator prepares Nix for evaluations alone.
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
		Memory: o.EvaluationBytes, CPU: o.EvaluationTime, FetchTime: o.FetchTime,
		AllowedURIs: o.AllowedURIs, Config: o.Packages.Config, ScratchDir: scratch,
		Realise: read, HostEnv: o.nixStore().Environment(), MaxBytes: o.CacheBytes, Grown: grown,
	})
}

// Check tries whether the package set, as it is now, can be used with the Nix of this machine. It
// builds nothing, and writes below CacheDir only. A fault is to be mended in the set or the
// options. The error means that Check can't tell here and now.
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
	names := slices.Concat(options.Include, options.Shell)
	results, err := evaluator.Evaluate(ctx, sourceOf(pinned), system, names)
	broken := (*eval.SourceError)(nil)
	switch {
	case err == nil && options.ImportFromDerivation:
		return nil, nil // an include may have to read what is built, and nothing is built here
	case err == nil:
		return faultsOfIncludes(options.Include, results, system)
	case !errors.As(err, &broken), broken.Unfetched, broken.Limit:
		return nil, err
	case options.ImportFromDerivation && !broken.Setup:
		return nil, fmt.Errorf("it may have to read what is built, and nothing is built here: %w", broken)
	}
	return broken, nil
}

// How tells how Nix builds on this machine, and what there is to be said against that and against
// how evaluations run, a line each. If it fails, the lines that it has are returned with the error.
func How(ctx context.Context, options Options) ([]string, error) {
	shared := options.Share.How()
	if !options.Builds && options.StoreBytes == 0 || options.Storeless {
		return shared, nil
	}
	runner, warnings := proc.New()
	warnings = append(shared, warnings...)
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

// removeLeftovers removes the scratch files of processes that were killed during an evaluation.
// What can't be removed is harmless.
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
		MaxBytes: o.MaxBytes, StoreBytes: o.StoreBytes, Settings: o.Settings, Substituters: o.Caches.Substituters,
		ShareURL: o.Share.To,
		CacheDir: o.CacheDir,
	}
}

// openShare prepares the use of the binary cache that replicas share; nil: there is none.
func (o Options) openShare(runner *proc.Runner) (*share.Share, error) {
	if !o.Share.Set() {
		return nil, nil
	}
	nix := o.nixStore()
	return share.Open(runner, o.Share, nix.Downloads(), nix.Environment(), share.Dir(o.CacheDir))
}

// CheckShare tries whether the binary cache that replicas share can be written to. A fault is one of
// the options, or of the cache.
func CheckShare(ctx context.Context, options Options) (fault error) {
	runner, _ := proc.New()
	shared, err := options.openShare(runner)
	if shared == nil || err != nil {
		return err
	}
	defer shared.Close()
	nix, err := nixstore.New(runner, options.nixStore(), nil) // it writes the passwords of caches
	if err != nil {
		return err
	}
	defer nix.Close()
	if err := shared.Try(ctx); err != nil {
		return fmt.Errorf("nix.share.to: nothing can be copied there: %w", err)
	}
	return nil
}

// CheckLogins tells all that is wrong with the users and passwords in the URLs of binary caches,
// joined.
func CheckLogins(substituters []string) error { return nixstore.CheckLogins(substituters) }
