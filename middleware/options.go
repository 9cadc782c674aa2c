package middleware

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/go-viper/mapstructure/v2"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// Options is the nix stanza of the registry's configuration. Keys are lower-case without
// underscores, so that REGISTRY_MIDDLEWARE_… environment variables can override them.
type Options struct {
	Packages PackagesOptions `mapstructure:"packages"`
	// Refresh is how long a channel or branch is believed before it is looked up again.
	Refresh   time.Duration `mapstructure:"refresh"`
	Platforms []string      `mapstructure:"platforms"`
	Names     NamesOptions  `mapstructure:"names"`
	Build     BuildOptions  `mapstructure:"build"`
	Image     ImageOptions  `mapstructure:"image"`
	// Shell is what the meta-package shell stands for, Include is in every image that has a package
	// set with them.
	Shell   []string `mapstructure:"shell"`
	Include []string `mapstructure:"include"`
	// Prebuild are images, NAME or NAME:TAG, that are built before anybody asks, and again when the
	// package set has changed.
	Prebuild []string   `mapstructure:"prebuild"`
	Nix      NixOptions `mapstructure:"nix"`
	Web      WebOptions `mapstructure:"web"`
	// CacheDir is where this process keeps copies of package sets and the scratch files of
	// evaluations.
	CacheDir string `mapstructure:"cachedir"`
	// CacheSize is how much of that stays, those used last.
	CacheSize Bytes `mapstructure:"cachesize"`
}

// PackagesOptions is where packages come from: one of channel, git and path.
type PackagesOptions struct {
	// Channel is a channel of Nix or NixOS, or a full commit of nixpkgs.
	Channel string     `mapstructure:"channel"`
	Git     GitOptions `mapstructure:"git"`
	// Path is a directory with a default.nix or flake.nix, or a .nix file.
	Path string `mapstructure:"path"`
	// Tags are what clients may choose beside latest: branches, tags and ancestors of a git
	// repository, and globs of the names of branches, tags and channels.
	Tags []string `mapstructure:"tags"`
	// NixPath are other sets, by the names that this one can look them up by between angle
	// brackets.
	NixPath map[string]NixPathOptions `mapstructure:"nixpath"`
	// Config is the argument of that name of sets that take it, as nixpkgs does: allowUnfree,
	// permittedInsecurePackages, …
	Config map[string]any `mapstructure:"config"`
	// Channels and Archives are where channels and nixpkgs are fetched from.
	Channels string `mapstructure:"channels"`
	Archives string `mapstructure:"archives"`
	// Keep is how many revisions stay on this machine, those last asked for.
	Keep int `mapstructure:"keep"`
}

// GitOptions is a package set in a git repository. An empty Ref is the remote's HEAD.
type GitOptions struct {
	URL string `mapstructure:"url"`
	Ref string `mapstructure:"ref"`
	// Submodules has the files of submodules fetched too.
	Submodules bool `mapstructure:"submodules"`
}

// NixPathOptions is where another set comes from: one of channel, git and path.
type NixPathOptions struct {
	Channel string     `mapstructure:"channel"`
	Git     GitOptions `mapstructure:"git"`
	Path    string     `mapstructure:"path"`
}

// NamesOptions is which image names are made of packages, and which packages may be asked for.
type NamesOptions struct {
	Prefix      string   `mapstructure:"prefix"`
	Allow       []string `mapstructure:"allow"`
	Deny        []string `mapstructure:"deny"`
	MaxPackages int      `mapstructure:"maxpackages"`
}

// BuildOptions is what building may cost.
type BuildOptions struct {
	// Timeout is how long Nix may take for one derivation, Total for all that it does for an image,
	// with packing that.
	Timeout time.Duration `mapstructure:"timeout"`
	Total   time.Duration `mapstructure:"total"`
	// Local has what binary caches don't have built. Else it is refused.
	Local bool `mapstructure:"local"`
	// LogToClients has clients told the last lines of a failed build; else they are in the
	// registry's log alone.
	LogToClients bool `mapstructure:"logtoclients"`
	// Concurrency is how many images may have Nix build or download for them at a time, Queue how
	// many more may wait.
	Concurrency int `mapstructure:"concurrency"`
	Queue       int `mapstructure:"queue"`
	// PerClient is how many builds one client may have under way. A client is a user, or an address
	// where there are no users, of IPv6 its first 64 bits.
	PerClient int `mapstructure:"perclient"`
	// NewPerHour is how many images that are not stored one client may ask for in an hour.
	NewPerHour int `mapstructure:"newperhour"`
	// TrustedProxies are addresses and networks whose X-Forwarded-For is believed.
	TrustedProxies []string `mapstructure:"trustedproxies"`
	// MaxSize is how large the store paths of an image may be together.
	MaxSize Bytes `mapstructure:"maxsize"`
	// Hold is how long a client waits for the header of an answer before it is sent round again.
	Hold time.Duration `mapstructure:"hold"`
	// Storeless has images made straight from binary caches, those of Nix.Substituters, without a
	// Nix store.
	Storeless bool `mapstructure:"storeless"`
}

// ImageOptions is the form of images.
type ImageOptions struct {
	Compression compress.Compression `mapstructure:"compression"`
	// Layers is how many layers the store paths of an image may have. The root layer comes on top.
	Layers int `mapstructure:"layers"`
}

// NixOptions is handed to Nix as it is. Storeless builds use the same substituters and keys.
type NixOptions struct {
	Substituters      []string `mapstructure:"substituters"`
	TrustedPublicKeys []string `mapstructure:"trustedpublickeys"`
	Builders          string   `mapstructure:"builders"`
	// AllowedURIs are prefixes of what package sets may fetch while they are evaluated.
	AllowedURIs []string `mapstructure:"alloweduris"`
	// ImportFromDerivation lets package sets read what is built for that while they are evaluated.
	ImportFromDerivation bool `mapstructure:"importfromderivation"`
	// EvaluationMemory and EvaluationTime (of a processor) are what one evaluation may use.
	EvaluationMemory Bytes         `mapstructure:"evaluationmemory"`
	EvaluationTime   time.Duration `mapstructure:"evaluationtime"`
	// FetchTime is how much longer one may take that fetches, of a processor and by the clock.
	FetchTime time.Duration `mapstructure:"fetchtime"`
}

// WebOptions is what is served on / beside the registry.
type WebOptions struct {
	// Dir has the files of a site; empty: a page that says what this is.
	Dir string `mapstructure:"dir"`
}

// Bytes is a size: a number of bytes, or a text with a unit such as 10GB or 512MiB.
type Bytes int64

func defaults() Options {
	return Options{
		Packages:  PackagesOptions{Channels: source.DefaultChannels, Archives: source.DefaultArchives, Keep: 4},
		Refresh:   time.Hour,
		Platforms: []string{"linux/amd64"},
		Names:     NamesOptions{MaxPackages: 30},
		Build: BuildOptions{
			Timeout: time.Minute, Total: 30 * time.Minute, Concurrency: 2, Queue: 100, PerClient: 16, NewPerHour: 300, MaxSize: 10 * units.GB, Hold: 25 * time.Second,
			TrustedProxies: []string{
				"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
				"fc00::/7", "fe80::/10",
			},
			Local: true, LogToClients: true,
		},
		Image: ImageOptions{Compression: compress.Gzip, Layers: 94},
		Nix: NixOptions{
			AllowedURIs:      []string{"https://"},
			EvaluationMemory: 2 * units.GiB,
			EvaluationTime:   30 * time.Second,
			FetchTime:        5 * time.Minute,
		},
		Shell:    []string{"bashInteractive", "coreutils", "moreutils", "nano"},
		Include:  []string{"cacert", "iana-etc"},
		CacheDir: defaultCacheDir(), CacheSize: 10 * units.GB,
	}
}

// defaultCacheDir is systemd's CacheDirectory= where there is one. Evaluations run as another user
// where they can, so a home directory serves only those who are not root.
func defaultCacheDir() string {
	if dir, _, _ := strings.Cut(os.Getenv("CACHE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir, err := os.UserCacheDir(); err == nil && os.Geteuid() != 0 {
		return filepath.Join(dir, "nixery-registry")
	}
	return "/var/cache/nixery-registry"
}

// ParseOptions reads a stanza's options strictly: every unknown key, wrong type and impossible
// value is in the error, each on a line that begins with its key.
func ParseOptions(stanza map[string]any) (Options, error) {
	options := defaults()
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:     &options,
		ZeroFields: true, // a list replaces the default
		MatchName:  func(key, field string) bool { return key == field },
		DecodeHook: mapstructure.ComposeDecodeHookFunc(decodeDuration, decodeBytes, decodeCompression, requireKind),
	})
	if err != nil {
		return Options{}, err
	}
	named, _ := namedKeys(stanza).(map[string]any)
	faults := typeFaults(decoder.Decode(named))
	if build, _ := named["build"].(map[string]any); build["total"] == nil {
		options.Build.Total = max(options.Build.Total, options.Build.Timeout)
	}
	for _, key := range unusedKeys(named) {
		faults = append(faults, fmt.Errorf("%s: unknown key", dotted(key)))
	}
	told := faults
	for _, fault := range options.faults() {
		key, _, _ := strings.Cut(fault.Error(), ":")
		if !slices.ContainsFunc(told, func(other error) bool { return strings.HasPrefix(other.Error(), key) }) {
			faults = append(faults, fault) // and does not come of another
		}
	}
	return options, errors.Join(faults...)
}

// namedKeys is a value of YAML with maps by name where all their keys are names, so that the
// decoder can tell them.
func namedKeys(value any) any {
	switch value := value.(type) {
	case map[string]any:
		named := make(map[string]any, len(value))
		for key, one := range value {
			named[key] = namedKeys(one)
		}
		return named
	case map[any]any:
		named := make(map[string]any, len(value))
		for key, one := range value {
			name, ok := key.(string)
			if !ok {
				return value
			}
			named[name] = namedKeys(one)
		}
		return named
	}
	return value
}

// dotted is a key as people write it, not as the decoder does that of a map.
func dotted(key string) string {
	return regexp.MustCompile(`^(packages\.nixpath)\[([^\]]*)\]`).ReplaceAllString(key, "$1.$2")
}

// unusedKeys are the keys that no option has, sorted. The decoder keeps quiet about those beside a
// value of a wrong type, so here no value has one.
func unusedKeys(stanza map[string]any) []string {
	var found mapstructure.Metadata
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:    new(Options),
		Metadata:  &found,
		MatchName: func(key, field string) bool { return key == field },
		DecodeHook: func(_, to reflect.Type, value any) (any, error) {
			if (to.Kind() == reflect.Struct || to.Kind() == reflect.Map) &&
				reflect.TypeOf(value).Kind() == reflect.Map {
				return value, nil
			}
			return reflect.Zero(to).Interface(), nil
		},
	})
	if err == nil {
		err = decoder.Decode(stanza)
	}
	if err != nil {
		return nil
	}
	slices.Sort(found.Unused)
	return found.Unused
}

// typeFaults takes the decoder's error apart, into one for each key, sorted.
func typeFaults(err error) []error {
	var faults []error
	switch err := err.(type) { //nolint:errorlint // the tree of errors is walked here
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		for _, one := range err.Unwrap() {
			faults = append(faults, typeFaults(one)...)
		}
	case *mapstructure.DecodeError:
		return []error{fmt.Errorf("%s: %w", dotted(err.Name()), err.Unwrap())}
	case interface{ Unwrap() error }:
		return typeFaults(err.Unwrap())
	default:
		return []error{err}
	}
	sortFaults(faults)
	return faults
}

func sortFaults(faults []error) {
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
}

// requireKind says what a value should have been; the decoder itself would turn some into others,
// 1.5 into 1.
func requireKind(_, to reflect.Type, value any) (any, error) {
	var ok bool
	var want string
	switch kind := reflect.TypeOf(value).Kind(); to.Kind() {
	case reflect.String:
		ok, want = kind == reflect.String, "a text: put it in quotes"
	case reflect.Int, reflect.Int64:
		ok, want = kind == reflect.Int || kind == reflect.Int64, "a whole number"
	case reflect.Bool:
		ok, want = kind == reflect.Bool, "true or false"
	case reflect.Slice:
		ok, want = kind == reflect.Slice, "a list"
	case reflect.Struct, reflect.Map:
		ok, want = kind == reflect.Map, "a map of keys"
	default:
		ok = true
	}
	if !ok {
		return nil, fmt.Errorf("%#v is not %s", value, want)
	}
	return value, nil
}

func decodeDuration(_, to reflect.Type, value any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return value, nil
	}
	text, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("%v has no unit: write 90s, 15m or 1h", value)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a time: write 90s, 15m or 1h", text)
	}
	return d, nil
}

func decodeBytes(_, to reflect.Type, value any) (any, error) {
	text, ok := value.(string)
	if to != reflect.TypeFor[Bytes]() || !ok {
		return value, nil
	}
	parse := units.FromHumanSize
	if strings.HasSuffix(strings.ToLower(text), "ib") {
		parse = units.RAMInBytes
	}
	size, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a size: write 500MB, 10GB or 8GiB", text)
	}
	return Bytes(size), nil
}

func decodeCompression(_, to reflect.Type, value any) (any, error) {
	text, ok := value.(string)
	if to != reflect.TypeFor[compress.Compression]() || !ok {
		return value, nil
	}
	return compress.Parse(text)
}

// packages is what the options mean to the builder.
func (o Options) packages() nixbuilder.Packages {
	packages := o.packageSet(NixPathOptions{Channel: o.Packages.Channel, Git: o.Packages.Git, Path: o.Packages.Path})
	packages.Channel.Tags, packages.Git.Tags = o.Packages.Tags, o.Packages.Tags
	packages.NixPath = make(map[string]nixbuilder.Packages, len(o.Packages.NixPath))
	for name, other := range o.Packages.NixPath {
		packages.NixPath[name] = o.packageSet(other)
	}
	packages.Config, _ = o.Packages.config() // its faults are told
	return packages
}

// config is Config as JSON, with sorted keys; empty if there is none.
func (o PackagesOptions) config() (string, error) {
	if len(o.Config) == 0 {
		return "", nil
	}
	plain, err := jsonValue("", o.Config)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(plain)
	return string(text), err
}

// jsonValue is a value of YAML as one that JSON has. The error begins with the key at which that is
// not possible.
func jsonValue(key string, value any) (any, error) {
	switch value := value.(type) {
	case nil, string, bool, int, int64, float64:
		return value, nil
	case []any:
		list := make([]any, len(value))
		for i, one := range value {
			var err error
			if list[i], err = jsonValue(fmt.Sprintf("%s[%d]", key, i), one); err != nil {
				return nil, err
			}
		}
		return list, nil
	case map[string]any:
		set := make(map[string]any, len(value))
		for name, one := range value {
			var err error
			if set[name], err = jsonValue(key+"."+name, one); err != nil {
				return nil, err
			}
		}
		return set, nil
	case map[any]any:
		set := make(map[string]any, len(value))
		for name, one := range value {
			text, ok := name.(string)
			if !ok {
				return nil, fmt.Errorf("%s: the key %v is not a text: put it in quotes", key, name)
			}
			set[text] = one
		}
		return jsonValue(key, set)
	}
	return nil, fmt.Errorf("%s: a %T can't be handed to Nix", key, value)
}

func (o Options) packageSet(set NixPathOptions) nixbuilder.Packages {
	return nixbuilder.Packages{
		Path: set.Path,
		Channel: source.ChannelOptions{
			Name: set.Channel, Channels: o.Packages.Channels, Archives: o.Packages.Archives, Keep: o.Packages.Keep, MaxBytes: int64(o.CacheSize), Refresh: o.Refresh,
		},
		Git: source.GitOptions{
			URL: set.Git.URL, Ref: set.Git.Ref, Submodules: set.Git.Submodules, Keep: o.Packages.Keep, MaxBytes: int64(o.CacheSize), Refresh: o.Refresh,
		},
	}
}

// caches are those of storeless builds.
func (o Options) caches() binarycache.Options {
	return binarycache.Options{Substituters: o.Nix.Substituters, TrustedPublicKeys: o.Nix.TrustedPublicKeys}
}

// form is what images depend on beside packages: a change makes tags that move anew.
func (o Options) form() string {
	text, err := json.Marshal([]any{o.Shell, o.Include, o.Image, o.Platforms})
	if err != nil {
		panic(err) // these are texts and numbers
	}
	return records.Key(string(text))[:16]
}

// builder is what the options mean to the builder.
func (o Options) builder() nixbuilder.Options {
	settings := map[string]string{}
	if o.Nix.Substituters != nil {
		settings["substituters"] = strings.Join(o.Nix.Substituters, " ")
	}
	if o.Nix.TrustedPublicKeys != nil {
		settings["trusted-public-keys"] = strings.Join(o.Nix.TrustedPublicKeys, " ")
	}
	if o.Nix.Builders != "" {
		settings["builders"] = o.Nix.Builders
	}
	return nixbuilder.Options{
		Packages:             o.packages(),
		Platforms:            o.Platforms,
		Policy:               names.Policy{Allow: o.Names.Allow, Deny: o.Names.Deny},
		Shell:                o.Shell,
		Include:              o.Include,
		Compression:          o.Image.Compression,
		Layers:               o.Image.Layers,
		BuildTimeout:         o.Build.Timeout,
		BuildTotal:           o.Build.Total,
		Builds:               o.Build.Local,
		LogToClients:         o.Build.LogToClients,
		Concurrency:          o.Build.Concurrency,
		MaxBytes:             int64(o.Build.MaxSize),
		Storeless:            o.Build.Storeless,
		Caches:               o.caches(),
		Settings:             settings,
		EvaluationBytes:      int64(o.Nix.EvaluationMemory),
		EvaluationTime:       o.Nix.EvaluationTime,
		FetchTime:            o.Nix.FetchTime,
		AllowedURIs:          o.Nix.AllowedURIs,
		ImportFromDerivation: o.Nix.ImportFromDerivation,
		CacheDir:             o.CacheDir,
		CacheBytes:           int64(o.CacheSize),
	}
}

// tags are those that stand for what the operator has configured, or wants to be there.
func (o Options) tags() []string {
	tags := []string{source.Latest}
	for _, tag := range []string{o.Packages.Channel, o.Packages.Git.Ref} {
		if tag != "" {
			tags = append(tags, tag)
		}
	}
	for _, text := range o.Prebuild {
		if _, tag, ok := strings.Cut(text, ":"); ok {
			tags = append(tags, tag)
		}
	}
	return tags
}

// proxies are the networks of TrustedProxies. Every text that is none is in the error.
func (o BuildOptions) proxies() (networks []netip.Prefix, err error) {
	var faults []error
	for _, text := range o.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if address, addressErr := netip.ParseAddr(text); addressErr == nil {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", text))
			continue
		}
		networks = append(networks, network.Masked())
	}
	return networks, errors.Join(faults...)
}

// nixPathName is what can stand between angle brackets, before a slash.
var nixPathName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$`)

// setFaults tells what is impossible about where a package set comes from.
func setFaults(key string, set nixbuilder.Packages, git GitOptions) (faults []error) {
	var sources []string
	for key, value := range map[string]string{"channel": set.Channel.Name, "git": set.Git.URL, "path": set.Path} {
		if value != "" {
			sources = append(sources, key)
		}
	}
	slices.Sort(sources)
	switch {
	case len(sources) == 0:
		faults = append(faults, fmt.Errorf("%s: names no package set: give one of channel, git and path", key))
	case len(sources) > 1:
		faults = append(
			faults,
			fmt.Errorf("%s: names several package sets: leave one of %s", key, strings.Join(sources, ", ")),
		)
	case set.Channel.Name != "":
		faults = append(faults, prefixed(key+".channel: ", set.Channel.Check())...)
	case set.Git.URL != "":
		faults = append(faults, prefixed(key+".git: ", set.Git.Check())...)
	case set.Path != "":
		if _, err := os.Stat(set.Path); err != nil {
			faults = append(faults, fmt.Errorf("%s.path: %w", key, err))
		}
	}
	if git != (GitOptions{}) && git.URL == "" {
		faults = append(faults, fmt.Errorf("%s.git.url: missing", key))
	}
	return faults
}

// faults tells what is impossible about options of the right types.
func (o Options) faults() []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	faults = append(faults, setFaults("packages", o.packages(), o.Packages.Git)...)
	switch {
	case o.Packages.Git.URL != "" || o.Packages.Channel != "":
		faults = append(
			faults,
			prefixed("packages.tags: ", source.Tags(o.Packages.Tags).Check(o.Packages.Git.URL != ""))...)
	case len(o.Packages.Tags) > 0:
		fault("packages.tags: says which branches, tags and channels clients may choose, and packages.path has none")
	}
	for name, set := range o.Packages.NixPath {
		key := "packages.nixpath." + name
		if !nixPathName.MatchString(name) {
			fault("%s: is not a name that can be looked up, such as nixpkgs", key)
		}
		faults = append(faults, setFaults(key, o.packageSet(set), set.Git)...)
	}
	if _, err := o.Packages.config(); err != nil {
		fault("packages.config%w", err)
	}
	if len(o.Platforms) == 0 {
		fault("platforms: none: name at least one, such as linux/amd64")
	}
	if len(slices.Compact(slices.Sorted(slices.Values(o.Platforms)))) < len(o.Platforms) {
		fault("platforms: one is named twice")
	}
	for _, platform := range o.Platforms {
		if _, err := nixbuilder.SystemOf(platform); err != nil {
			fault("platforms: %w", err)
		}
	}
	if o.Names.Prefix != "" {
		if _, err := reference.WithName(o.Names.Prefix); err != nil {
			fault("names.prefix: %q can't begin an image name: %w", o.Names.Prefix, err)
		}
	}
	faults = append(faults, prefixed("names.allow: ", names.Policy{Allow: o.Names.Allow}.Check())...)
	faults = append(faults, prefixed("names.deny: ", names.Policy{Deny: o.Names.Deny}.Check())...)
	for i, text := range o.Prebuild {
		if _, _, err := o.image(text); err != nil {
			fault("prebuild[%d]: %w", i, err)
		}
	}
	if len(o.Prebuild) > 0 && o.Refresh < time.Second {
		fault("refresh: %v is too short for prebuild, which looks for changes that often: take 1s or more", o.Refresh)
	}
	for _, limit := range []struct {
		key              string
		value, low, high int64
	}{
		{"packages.keep", int64(o.Packages.Keep), 1, 1000},
		{"names.maxpackages", int64(o.Names.MaxPackages), 1, 1000},
		{"build.concurrency", int64(o.Build.Concurrency), 1, 1000},
		{"build.queue", int64(o.Build.Queue), 0, 1_000_000},
		{"build.perclient", int64(o.Build.PerClient), 1, 1_000_000},
		{"build.newperhour", int64(o.Build.NewPerHour), 1, 1_000_000},
		{"build.maxsize", int64(o.Build.MaxSize), 1, 1 << 50},
		{"cachesize", int64(o.CacheSize), units.MB, 1 << 50},
		{"image.layers", int64(o.Image.Layers), 1, 125}, // container engines take 127 with the root layer and the container's own
		{"nix.evaluationmemory", int64(o.Nix.EvaluationMemory), 64 * units.MiB, 1 << 50},
	} {
		if limit.value < limit.low || limit.value > limit.high {
			fault("%s: %d is not between %d and %d", limit.key, limit.value, limit.low, limit.high)
		}
	}
	for _, limit := range []struct {
		key              string
		value, low, high time.Duration
	}{
		{"refresh", o.Refresh, 0, 365 * 24 * time.Hour},
		{"build.timeout", o.Build.Timeout, time.Second, 7 * 24 * time.Hour},
		{"build.total", o.Build.Total, o.Build.Timeout, 7 * 24 * time.Hour},
		{"build.hold", o.Build.Hold, time.Second, time.Hour},
		{"nix.evaluationtime", o.Nix.EvaluationTime, time.Second, time.Hour},
		{"nix.fetchtime", o.Nix.FetchTime, time.Second, 24 * time.Hour},
	} {
		if limit.value < limit.low || limit.value > limit.high {
			fault("%s: %v is not between %v and %v", limit.key, limit.value, limit.low, limit.high)
		}
	}
	if _, err := o.Build.proxies(); err != nil {
		faults = append(faults, prefixed("build.trustedproxies: ", err)...)
	}
	if o.Build.Storeless && o.Nix.ImportFromDerivation {
		fault("nix.importfromderivation: takes a Nix store, which build.storeless does without: leave one of the two")
	}
	faults = append(faults, prefixed("nix.substituters: ", nixbuilder.CheckLogins(o.Nix.Substituters))...)
	if !o.Build.Local && o.Nix.ImportFromDerivation {
		fault("nix.importfromderivation: has packages built, which build.local: false rules out: leave one of the two")
	}
	if !o.Build.Local && o.Nix.Builders != "" {
		fault(
			"nix.builders: has packages built, here too if their set says so, which build.local: false rules out: leave one of the two",
		)
	}
	if o.Build.Storeless {
		faults = append(faults, prefixed("nix.substituters: ", o.caches().CheckSubstituters())...)
		faults = append(faults, prefixed("nix.trustedpublickeys: ", o.caches().CheckTrustedPublicKeys())...)
	}
	for _, prefix := range o.Nix.AllowedURIs {
		if prefix == "" || strings.ContainsAny(prefix, " \t\n") {
			fault("nix.alloweduris: %q is not the beginning of a URI", prefix)
		}
	}
	if !filepath.IsAbs(o.CacheDir) {
		fault("cachedir: %q is not an absolute path", o.CacheDir)
	}
	sortFaults(faults)
	return faults
}
