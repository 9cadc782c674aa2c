package middleware

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/middleware/retention"
	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
	"github.com/nixery-registry/nixery-registry/nixbuilder/share"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// builder returns the options of the builder.
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
		CI:                   o.CI,
		Foreign:              o.Foreign,
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
		StoreBytes:           int64(o.Nix.MaxStore),
		Share:                share.Options(o.Nix.Share),
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

// packages returns where the builder gets packages from.
func (o Options) packages() nixbuilder.Packages {
	main := NixPathOptions{Channel: o.Packages.Channel, Git: o.Packages.Git, Path: o.Packages.Path}
	packages := o.packageSet(main)
	packages.Channel.Tags, packages.Git.Tags = o.Packages.Tags, o.Packages.Tags
	packages.NixPath = make(map[string]nixbuilder.Packages, len(o.Packages.NixPath))
	for name, other := range o.Packages.NixPath {
		packages.NixPath[name] = o.packageSet(other)
	}
	packages.Config, _ = o.Packages.config() // faults tells what is wrong with it
	return packages
}

// packageSet returns where one set comes from, be it the main one or one of the NixPath.
func (o Options) packageSet(set NixPathOptions) nixbuilder.Packages {
	return nixbuilder.Packages{
		Path:     set.Path,
		PathKeep: o.Packages.Keep,
		Channel: source.ChannelOptions{
			Name:     set.Channel,
			Channels: o.Packages.Channels,
			Archives: o.Packages.Archives,
			Keep:     o.Packages.Keep,
			MaxBytes: int64(o.CacheSize),
			Refresh:  o.Refresh,
		},
		Git: source.GitOptions{
			URL:        set.Git.URL,
			Ref:        set.Git.Ref,
			Submodules: set.Git.Submodules,
			Keep:       o.Packages.Keep,
			MaxBytes:   int64(o.CacheSize),
			Refresh:    o.Refresh,
		},
	}
}

// config returns Config as JSON, with sorted keys; empty if there is none.
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

// jsonValue turns a value of YAML into one that JSON has. The error begins with the key at which
// that is not possible.
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

// caches are the binary caches of storeless builds.
func (o Options) caches() binarycache.Options {
	caches := binarycache.Options{Substituters: o.Nix.Substituters, TrustedPublicKeys: o.Nix.TrustedPublicKeys}
	if shared := share.Options(o.Nix.Share); shared.Set() {
		caches.Share.URL = shared.Cache()
		if key, err := shared.PublicKey(); err == nil { // faults tells why there is none
			caches.TrustedPublicKeys = append(slices.Clone(caches.TrustedPublicKeys), key)
		}
	}
	return caches
}

// form stands for what images depend on beside packages. If it changes, tags that move get new
// images.
func (o Options) form() string {
	text, err := json.Marshal([]any{o.Shell, o.CI, o.Foreign, o.Include, o.Image, o.Platforms})
	if err != nil {
		panic(err) // these are texts and numbers
	}
	return records.Key(string(text))[:16]
}

// tags are the tags of what the operator has configured or wants to be there.
func (o Options) tags() []string {
	tags := []string{source.Latest}
	for _, tag := range []string{o.Packages.Channel, o.Packages.Git.Ref} {
		if tag != "" {
			tags = append(tags, tag)
		}
	}
	for _, text := range o.Prebuild {
		tags = append(tags, tagOf(text))
	}
	return tags
}

// limits returns the limits of what stays.
func (o RetentionOptions) limits() retention.Limits {
	return retention.Limits{Unused: o.Unused, Keep: o.Keep, MaxBytes: int64(o.MaxSize)}
}

// proxies are the networks of TrustedProxies. The error names every text that is not one.
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
