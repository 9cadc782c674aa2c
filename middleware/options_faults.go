package middleware

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/share"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// faults collects what is wrong with options. Each fault begins with its key.
type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// addAll adds an error, or all that errors.Join made one of, with a prefix before each.
func (f *faults) addAll(prefix string, err error) { *f = append(*f, prefixed(prefix, err)...) }

// prefixed takes an error apart that errors.Join made, and puts a prefix before each.
func prefixed(prefix string, err error) []error {
	if err == nil {
		return nil
	}
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{fmt.Errorf("%s%w", prefix, err)}
	}
	faults := many.Unwrap()
	for i, fault := range faults {
		faults[i] = fmt.Errorf("%s%w", prefix, fault)
	}
	return faults
}

// faults tells what is impossible about options of the right types, sorted.
func (o Options) faults() []error {
	var f faults
	o.packagesFaults(&f)
	o.platformFaults(&f)
	o.nameFaults(&f)
	o.buildFaults(&f)
	o.sizeFaults(&f)
	o.timeFaults(&f)
	if o.RefreshTokenFile != "" {
		if _, err := readToken(o.RefreshTokenFile); err != nil {
			f.add("refreshtokenfile: %w", err)
		}
		if o.Packages.isPathAlone() {
			f.add("refreshtokenfile: is for hooks of a channel or a git repository, " +
				"and an edit of packages.path is seen by itself: leave it out")
		}
	}
	if o.Web.Dir != "" {
		if info, err := os.Stat(o.Web.Dir); err != nil {
			f.add("web.dir: %w", err)
		} else if !info.IsDir() {
			f.add("web.dir: %s is not a directory", o.Web.Dir)
		}
	}
	o.Retention.faults(&f)
	if !filepath.IsAbs(o.CacheDir) {
		f.add("cachedir: %q is not an absolute path", o.CacheDir)
	}
	sortFaults(f)
	return f
}

// nixPathName matches what can stand between angle brackets, before a slash.
var nixPathName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$`)

func (o Options) packagesFaults(f *faults) {
	p := o.Packages
	setFaults(f, "packages", o.packages(), p.Git)
	if p.Git.URL != "" || p.Channel != "" {
		f.addAll("packages.tags: ", source.Tags(p.Tags).Check(p.Git.URL != ""))
	} else if len(p.Tags) > 0 {
		f.add("packages.tags: says which branches, tags and channels clients may choose, and packages.path has none")
	}
	hasChannel := p.Channel != ""
	for name, set := range p.NixPath {
		key := "packages.nixpath." + name
		if !nixPathName.MatchString(name) {
			f.add("%s: is not a name that can be looked up, such as nixpkgs", key)
		}
		setFaults(f, key, o.packageSet(set), set.Git)
		hasChannel = hasChannel || set.Channel != ""
	}
	if !hasChannel && cmp.Or(p.Channels, source.DefaultChannels) != source.DefaultChannels {
		f.add("packages.channels: says where channels come from, and no package set is one: leave it out")
	}
	if !hasChannel && cmp.Or(p.Archives, source.DefaultArchives) != source.DefaultArchives {
		f.add("packages.archives: says where the files of channels come from, and no package set is one: leave it out")
	}
	if _, err := p.config(); err != nil {
		f.add("packages.config%w", err)
	}
}

// setFaults tells what is impossible about where a package set comes from.
func setFaults(f *faults, key string, set nixbuilder.Packages, git GitOptions) {
	var sources []string
	for key, value := range map[string]string{"channel": set.Channel.Name, "git": set.Git.URL, "path": set.Path} {
		if value != "" {
			sources = append(sources, key)
		}
	}
	slices.Sort(sources)
	switch {
	case len(sources) == 0:
		f.add("%s: names no package set: give one of channel, git and path", key)
	case len(sources) > 1:
		f.add("%s: names several package sets (%s): keep one, and remove the others", key, strings.Join(sources, ", "))
	case set.Channel.Name != "":
		f.addAll(key+".channel: ", set.Channel.Check())
	case set.Git.URL != "":
		f.addAll(key+".git: ", set.Git.Check())
	case set.Path != "":
		if _, err := os.Stat(set.Path); err != nil {
			f.add("%s.path: %w", key, err)
		}
	}
	if git != (GitOptions{}) && git.URL == "" {
		f.add("%s.git.url: missing", key)
	}
}

func (o Options) platformFaults(f *faults) {
	if len(o.Platforms) == 0 {
		f.add("platforms: none: name at least one, such as linux/amd64")
	}
	if len(slices.Compact(slices.Sorted(slices.Values(o.Platforms)))) < len(o.Platforms) {
		f.add("platforms: one is named twice")
	}
	for _, platform := range o.Platforms {
		if _, err := nixbuilder.SystemOf(platform); err != nil {
			f.add("platforms: %w", err)
		}
	}
}

func (o Options) nameFaults(f *faults) {
	if o.Names.Prefix != "" {
		if _, err := reference.WithName(o.Names.Prefix); err != nil {
			f.add("names.prefix: %q can't begin an image name: %w", o.Names.Prefix, err)
		}
	}
	f.addAll("names.allow: ", names.Policy{Allow: o.Names.Allow}.Check())
	f.addAll("names.deny: ", names.Policy{Deny: o.Names.Deny}.Check())
	for i, text := range o.Prebuild {
		if _, _, err := o.image(text); err != nil {
			f.add("prebuild[%d]: %w", i, err)
		}
	}
	if len(o.Prebuild) > 0 && o.Refresh < time.Second {
		f.add("refresh: %v is too short for prebuild, which looks for changes that often: take 1s or more", o.Refresh)
	}
}

// nixStore matches what Nix takes for a store: a URL, a directory, or one of three words.
var nixStore = regexp.MustCompile(`^([a-z0-9+.-]+://\S+|/\S+|auto|daemon|local)$`)

// buildFaults are about how packages are built, and with which binary caches.
func (o Options) buildFaults(f *faults) {
	_, err := o.Build.proxies()
	f.addAll("build.trustedproxies: ", err)
	if o.Build.Storeless && o.Nix.ImportFromDerivation {
		f.add("nix.importfromderivation: takes a Nix store, which build.storeless does without: keep one of the two")
	}
	if o.Build.Storeless && o.Nix.MaxStore != 0 {
		f.add("nix.maxstore: is about the Nix store, which build.storeless does without: keep one of the two")
	}
	if !o.Build.Local && o.Nix.ImportFromDerivation {
		f.add("nix.importfromderivation: has packages built, which build.local: false rules out: keep one of the two")
	}
	if !o.Build.Local && o.Nix.Builders != "" {
		f.add("nix.builders: has packages built, here too if their set says so, " +
			"which build.local: false rules out: keep one of the two")
	}
	f.addAll("nix.substituters: ", nixbuilder.CheckLogins(o.Nix.Substituters))
	f.addAll("nix.share.", share.Options(o.Nix.Share).Check())
	f.addAll("nix.share.to: ", nixbuilder.CheckLogins([]string{o.Nix.Share.To}))
	if o.Build.Storeless {
		f.addAll("nix.substituters: ", o.caches().CheckSubstituters())
	} else {
		for _, cache := range o.Nix.Substituters {
			if !nixStore.MatchString(cache) {
				f.add("nix.substituters: %q is not the URL of a binary cache, such as https://cache.example.org", cache)
			}
		}
	}
	if o.Build.Storeless || len(o.Nix.TrustedPublicKeys) > 0 {
		f.addAll("nix.trustedpublickeys: ", o.caches().CheckTrustedPublicKeys())
	}
	for _, prefix := range o.Nix.AllowedURIs {
		if prefix == "" || strings.ContainsAny(prefix, " \t\n") {
			f.add("nix.alloweduris: %q is not the beginning of a URI", prefix)
		}
	}
}

func (o Options) sizeFaults(f *faults) {
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
		// Container engines take 127 layers. The root layer and the container's own are two of
		// them.
		{"image.layers", int64(o.Image.Layers), 1, 125},
		{"nix.maxstore", cmp.Or(int64(o.Nix.MaxStore), units.MB), units.MB, 1 << 50},
		{"nix.evaluationmemory", int64(o.Nix.EvaluationMemory), 64 * units.MiB, 1 << 50},
	} {
		if limit.value < limit.low || limit.value > limit.high {
			f.add("%s: %d is not between %d and %d", limit.key, limit.value, limit.low, limit.high)
		}
	}
}

func (o Options) timeFaults(f *faults) {
	const day = 24 * time.Hour
	for _, limit := range []struct {
		key              string
		value, low, high time.Duration
	}{
		{"refresh", o.Refresh, 0, 365 * day},
		{"build.timeout", o.Build.Timeout, time.Second, 7 * day},
		{"build.total", o.Build.Total, o.Build.Timeout, 7 * day},
		{"build.hold", o.Build.Hold, time.Second, time.Hour},
		{"nix.evaluationtime", o.Nix.EvaluationTime, time.Second, time.Hour},
		{"nix.fetchtime", o.Nix.FetchTime, time.Second, day},
	} {
		if limit.value < limit.low || limit.value > limit.high {
			f.add("%s: %v is not between %v and %v", limit.key, limit.value, limit.low, limit.high)
		}
	}
	if every := o.Collection.Every; every != 0 && (every < time.Hour || every > 365*day) {
		f.add("collection.every: %v is neither 0 nor between %v and %v", every, time.Hour, 365*day)
	}
}

func (o RetentionOptions) faults(f *faults) {
	const day, most = 24 * time.Hour, 10 * 365 * 24 * time.Hour
	if o.Unused != 0 && (o.Unused < day || o.Unused > most) {
		f.add("retention.unused: %v is not between %v and %v, as pulls are recorded once a day; 0s: no limit",
			o.Unused, day, most)
	}
	if o.Keep < 0 || o.Keep > 1_000_000 {
		f.add("retention.keep: %d is not between 1 and 1000000; 0: no limit", o.Keep)
	}
	if o.MaxSize < 0 || o.MaxSize > 1<<60 {
		f.add("retention.maxsize: %d is not between 1 and %d; 0: no limit", o.MaxSize, int64(1<<60))
	}
}
