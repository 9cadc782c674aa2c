package middleware

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// Options is the nix stanza of the registry's configuration. Keys are lower-case without
// underscores, so that REGISTRY_MIDDLEWARE_… environment variables can override them.
type Options struct {
	// Packages is the package set, and which of its revisions there are.
	Packages PackagesOptions `mapstructure:"packages"`
	// Refresh is how long a channel or branch is taken to be as it was when it was last looked up.
	// It is an hour, or a minute where the set is in a git repository.
	Refresh time.Duration `mapstructure:"refresh"`
	// RefreshTokenFile has the secret of hooks that tell of a change; empty: there are none.
	RefreshTokenFile string `mapstructure:"refreshtokenfile"`
	// Platforms are what images are for, as OCI writes it. With more than one, tags are image indexes.
	Platforms []string `mapstructure:"platforms"`
	// Names say which image names are made of packages, and which packages clients may ask for.
	Names NamesOptions `mapstructure:"names"`
	// Build is what building may cost.
	Build BuildOptions `mapstructure:"build"`
	// Image is the form of images.
	Image ImageOptions `mapstructure:"image"`
	// Shell is what the meta-package of this name stands for. The set must have these packages.
	Shell []string `mapstructure:"shell"`
	// CI is what the meta-package of this name stands for. The set must have these packages.
	CI []string `mapstructure:"ci"`
	// Foreign is what the meta-package ci brings for programs that were not made with Nix, as far as
	// the set has it.
	Foreign []string `mapstructure:"foreign"`
	// Include is in every image, as far as the set has it.
	Include []string `mapstructure:"include"`
	// Prebuild names images, NAME or NAME:TAG, that are built before anybody asks, and again when
	// the package set has changed.
	Prebuild []string `mapstructure:"prebuild"`
	// Nix is how Nix is used. Without a key, what nix.conf says holds.
	Nix NixOptions `mapstructure:"nix"`
	// Web is what is served on / beside the registry.
	Web WebOptions `mapstructure:"web"`
	// Collection says when blobs are deleted that only built images had.
	Collection CollectionOptions `mapstructure:"collection"`
	// CacheDir is where this process keeps copies of package sets and the scratch files of
	// evaluations.
	CacheDir string `mapstructure:"cachedir"`
	// CacheSize is how much of that stays. What was used last stays longest.
	CacheSize Bytes `mapstructure:"cachesize"`
	// Retention says which built images stay. Without it, all do. Nothing pushed is ever removed.
	Retention RetentionOptions `mapstructure:"retention"`
}

// RetentionOptions are limits, each of which is none if it is zero. What was pushed stays.
type RetentionOptions struct {
	// Unused is how long a built tag stays that nobody pulls.
	Unused time.Duration `mapstructure:"unused"`
	// Keep is how many tags of revisions each repository has.
	Keep int `mapstructure:"keep"`
	// MaxSize is how much blobs may take together that only built images have.
	MaxSize Bytes `mapstructure:"maxsize"`
}

// PackagesOptions is where packages come from: one of channel, git and path.
type PackagesOptions struct {
	// Channel is a channel of Nix or NixOS, or a full commit of nixpkgs.
	Channel string `mapstructure:"channel"`
	// Git is a git repository, as the set.
	Git GitOptions `mapstructure:"git"`
	// Path is a directory with a default.nix or flake.nix, or a .nix file.
	Path string `mapstructure:"path"`
	// Tags are what clients may choose beside latest: branches, tags and ancestors of a git
	// repository, and globs of the names of branches, tags and channels.
	Tags []string `mapstructure:"tags"`
	// NixPath are other sets, by the names under which this one finds them between angle brackets.
	NixPath map[string]NixPathOptions `mapstructure:"nixpath"`
	// Config is the argument config of sets that take one, as nixpkgs does: allowUnfree,
	// permittedInsecurePackages, …
	Config map[string]any `mapstructure:"config"`
	// Channels is the URL below which CHANNEL/git-revision is.
	Channels string `mapstructure:"channels"`
	// Archives is the URL below which COMMIT.tar.gz is.
	Archives string `mapstructure:"archives"`
	// Keep is how many revisions stay on this machine: those that were asked for last.
	Keep int `mapstructure:"keep"`
}

// GitOptions is a package set in a git repository. An empty Ref is the remote's HEAD.
type GitOptions struct {
	// URL is that of the repository: https, http, ssh, file, or a path.
	URL string `mapstructure:"url"`
	// Ref is the branch, tag or commit that latest stands for; empty: the remote's HEAD.
	Ref string `mapstructure:"ref"`
	// Submodules fetches the files of submodules too.
	Submodules bool `mapstructure:"submodules"`
}

// NixPathOptions is where another set comes from: one of channel, git and path.
type NixPathOptions struct {
	// Channel is a channel of Nix or NixOS, or a full commit of nixpkgs.
	Channel string `mapstructure:"channel"`
	// Git is a git repository, as the set.
	Git GitOptions `mapstructure:"git"`
	// Path is a directory with a default.nix or flake.nix, or a .nix file.
	Path string `mapstructure:"path"`
}

// NamesOptions say which image names are made of packages, and which packages clients may ask for.
type NamesOptions struct {
	// Prefix is what names of images begin with that are made of packages: nix for nix/git/htop; empty:
	// all names are.
	Prefix string `mapstructure:"prefix"`
	// Allow are globs over attribute paths; empty: all packages may be asked for.
	Allow []string `mapstructure:"allow"`
	// Deny are globs over attribute paths and package names, and win over allow.
	Deny []string `mapstructure:"deny"`
	// MaxPackages is how many packages one name may have.
	MaxPackages int `mapstructure:"maxpackages"`
}

// BuildOptions is what building may cost.
type BuildOptions struct {
	// Timeout is how long Nix may take for one derivation.
	Timeout time.Duration `mapstructure:"timeout"`
	// Total is how long all that Nix does for an image may take, packing included, and timeout if that
	// is longer.
	Total time.Duration `mapstructure:"total"`
	// Local builds what binary caches don't have. Without it, such packages are refused.
	Local bool `mapstructure:"local"`
	// LogToClients tells clients the last lines of a failed build. Without it, they are in the
	// registry's log alone.
	LogToClients bool `mapstructure:"logtoclients"`
	// Concurrency is how many images Nix may build for at a time, and as many that it downloads for.
	Concurrency int `mapstructure:"concurrency"`
	// Queue is how many more may wait. Further ones are told to come back (429).
	Queue int `mapstructure:"queue"`
	// PerClient is how many builds one client may have under way. A client is a user or, without
	// users, an address. Of an IPv6 address the first 64 bits count.
	PerClient int `mapstructure:"perclient"`
	// NewPerHour is how many images that are not stored one client may ask for in an hour.
	NewPerHour int `mapstructure:"newperhour"`
	// TrustedProxies are addresses and networks whose X-Forwarded-For is believed.
	TrustedProxies []string `mapstructure:"trustedproxies"`
	// MaxSize is how large the store paths of an image may be together.
	MaxSize Bytes `mapstructure:"maxsize"`
	// Hold is how long a client waits for the header of an answer before it is redirected to the
	// same URL.
	Hold time.Duration `mapstructure:"hold"`
	// Storeless makes images straight from the binary caches of Nix.Substituters, without a Nix
	// store.
	Storeless bool `mapstructure:"storeless"`
}

// ImageOptions is the form of images.
type ImageOptions struct {
	// Compression is that of layers.
	Compression compress.Compression `mapstructure:"compression"`
	// Layers is how many layers the store paths of an image may have. The root layer comes on top.
	Layers int `mapstructure:"layers"`
}

// NixOptions is handed to Nix as it is. Storeless builds use the same substituters and keys.
type NixOptions struct {
	// Substituters are the URLs of binary caches, in the place of nix.conf's.
	Substituters []string `mapstructure:"substituters"`
	// TrustedPublicKeys are those of binary caches, NAME:BASE64, in the place of nix.conf's.
	TrustedPublicKeys []string `mapstructure:"trustedpublickeys"`
	// Builders are remote builders, as nix.conf has them.
	Builders string `mapstructure:"builders"`
	// Share is a binary cache that gets what is built, for other replicas.
	Share ShareOptions `mapstructure:"share"`
	// AllowedURIs are prefixes of what package sets may fetch while they are evaluated.
	AllowedURIs []string `mapstructure:"alloweduris"`
	// ImportFromDerivation lets package sets, while they are evaluated, read what they have built.
	ImportFromDerivation bool `mapstructure:"importfromderivation"`
	// MaxStore is how large the machine's Nix store may be before Nix's collector runs; 0: it does not.
	MaxStore Bytes `mapstructure:"maxstore"`
	// EvaluationMemory is how much memory one evaluation may have. Twice build.concurrency run at a
	// time, at most.
	EvaluationMemory Bytes `mapstructure:"evaluationmemory"`
	// EvaluationTime is how long one evaluation may take, of a processor.
	EvaluationTime time.Duration `mapstructure:"evaluationtime"`
	// FetchTime is how much longer an evaluation that fetches may take, of a processor and by the
	// clock.
	FetchTime time.Duration `mapstructure:"fetchtime"`
}

// ShareOptions are a binary cache that replicas share, and the file of the key that signs what they
// copy to it.
type ShareOptions struct {
	// To is the URL of the cache: file://, http://, https:// or s3://.
	To string `mapstructure:"to"`
	// SecretKeyFile has the key that signs what is copied, as nix key generate-secret makes it.
	SecretKeyFile string `mapstructure:"secretkeyfile"`
}

// CollectionOptions say when blobs are deleted that only built images had.
type CollectionOptions struct {
	// Every is how often that is; 0: only when the command is run.
	Every time.Duration `mapstructure:"every"`
}

// WebOptions say what is served on / beside the registry.
type WebOptions struct {
	// Dir has the files of a site; empty: a page that says what this is.
	Dir string `mapstructure:"dir"`
}

// Bytes is a size: a number of bytes, or a text with a unit such as 10GB or 512MiB.
type Bytes int64

// isPathAlone tells whether there is nothing to look up: every pull sees what has changed.
func (o PackagesOptions) isPathAlone() bool { return o.Path != "" && len(o.NixPath) == 0 }

// gitRefresh is how long a git repository is believed by default: who pushes wants to see it.
const gitRefresh = time.Minute

// retry is after how long it is tried again what could not be built of a revision: Refresh, but not
// each minute only because a git repository is looked up that often.
func (o Options) retry() time.Duration {
	if o.Refresh == gitRefresh {
		return time.Hour
	}
	return o.Refresh
}

func defaults() Options {
	return Options{
		Packages:  PackagesOptions{Channels: source.DefaultChannels, Archives: source.DefaultArchives, Keep: 4},
		Refresh:   time.Hour,
		Platforms: []string{"linux/amd64"},
		Names:     NamesOptions{MaxPackages: 30},
		Build: BuildOptions{
			Timeout:      time.Minute,
			Total:        30 * time.Minute,
			Local:        true,
			LogToClients: true,
			Concurrency:  2,
			Queue:        100,
			PerClient:    16,
			NewPerHour:   300,
			TrustedProxies: []string{
				"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
				"fc00::/7", "fe80::/10",
			},
			MaxSize: 10 * units.GB,
			Hold:    25 * time.Second,
		},
		Image: ImageOptions{Compression: compress.Gzip, Layers: nixbuilder.DefaultLayers},
		Nix: NixOptions{
			AllowedURIs:      []string{"https://"},
			EvaluationMemory: 2 * units.GiB,
			EvaluationTime:   30 * time.Second,
			FetchTime:        5 * time.Minute,
		},
		Shell: []string{"bashInteractive", "coreutils", "moreutils", "nano"},
		CI: []string{
			"bash", "coreutils", "gnugrep", "gnused", "findutils", "gnutar", "gzip", "gawk", "which", "procps", "git",
		},
		Foreign:   []string{"nix-ld", "glibc.out", "stdenv.cc.cc.lib", "zlib", "getconf"},
		Include:   []string{"cacert", "iana-etc"},
		CacheDir:  defaultCacheDir(),
		CacheSize: 10 * units.GB,
	}
}

// defaultCacheDir is systemd's CacheDirectory= where there is one. It is below the home directory
// only for users who are not root: evaluations of root's run as another user.
func defaultCacheDir() string {
	if dir, _, _ := strings.Cut(os.Getenv("CACHE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir, err := os.UserCacheDir(); err == nil && os.Geteuid() != 0 {
		return filepath.Join(dir, "nixery-registry")
	}
	return "/var/cache/nixery-registry"
}
