package middleware

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// config is a registry's configuration around a stanza, read as the registry reads it.
func config(t *testing.T, stanza string) *configuration.Configuration {
	t.Helper()
	text := "version: 0.1\nstorage: {inmemory: {}}\nmiddleware:\n  repository:\n    - name: nix\n      options:\n"
	for line := range strings.Lines(stanza) {
		text += "        " + line
	}
	parsed, err := configuration.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// packageSet is a directory with a default.nix.
func packageSet(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "default.nix"), []byte("{ }"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestParseOptions(t *testing.T) {
	t.Setenv("CACHE_DIRECTORY", "/var/cache/test")
	const key = "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	set := packageSet(t)
	want := defaults()
	want.Packages.Path = set
	all := want
	all.Platforms = []string{"linux/arm64", "linux/amd64"}
	all.Names = NamesOptions{Prefix: "nix", Allow: []string{"python3*"}, Deny: []string{"*evil*"}, MaxPackages: 3}
	all.Build = BuildOptions{
		Timeout:        90 * time.Second,
		Total:          time.Hour,
		Concurrency:    3,
		Queue:          0,
		PerClient:      1,
		NewPerHour:     7,
		TrustedProxies: []string{"192.0.2.1"},
		MaxSize:        8 << 30,
		Hold:           20 * time.Second,
		Storeless:      true,
		Local:          true,
	}
	all.Image = ImageOptions{Compression: compress.Zstd, Layers: 20}
	all.Shell, all.Include = []string{"bash"}, []string{}
	all.CI, all.Foreign = []string{"bash", "git"}, []string{"nix-ld"}
	all.Prebuild = []string{"nix/shell/git", "nix/hello:staging"}
	all.Nix = NixOptions{
		Substituters: []string{
			"https://cache.example.org",
		}, TrustedPublicKeys: []string{key}, Builders: "@/etc/nix/machines",
		AllowedURIs: []string{}, EvaluationMemory: 1e9, EvaluationTime: time.Minute, FetchTime: time.Hour,
	}
	all.Collection.Every = 24 * time.Hour
	all.CacheDir, all.CacheSize = "/srv/cache", 20<<30
	bounded := want
	bounded.Nix.MaxStore = 100e9
	all.Retention = RetentionOptions{Unused: 720 * time.Hour, Keep: 3, MaxSize: 200_000_000_000}
	fetching := want
	fetching.Packages.Channels, fetching.Packages.Archives = "https://example.org/c", "https://example.org/a"
	fetching.Packages.NixPath = map[string]NixPathOptions{"x": {Channel: "nixos-26.05"}}
	for _, test := range []struct {
		name, stanza string
		want         Options
	}{
		{
			"where channels come from, for a set to look up",
			"packages: {path: " + set + ", nixpath: {x: {channel: nixos-26.05}}, " +
				"channels: https://example.org/c, archives: https://example.org/a}", fetching,
		},
		{"least", "packages: {path: " + set + "}", want},
		{"a store below a size", "packages: {path: " + set + "}\nnix: {maxstore: 100GB}", bounded},
		{"all", `
packages: {path: ` + set + `}
platforms: [linux/arm64, linux/amd64]
names: {prefix: nix, allow: ["python3*"], deny: ["*evil*"], maxpackages: 3}
build: {timeout: 90s, total: 1h, concurrency: 3, queue: 0, perclient: 1, newperhour: 7, trustedproxies: [192.0.2.1], maxsize: 8GiB, hold: 20s, storeless: true, local: true, logtoclients: false}
image: {compression: zstd, layers: 20}
shell: [bash]
ci: [bash, git]
foreign: [nix-ld]
include: []
prebuild: [nix/shell/git, "nix/hello:staging"]
nix: {substituters: ["https://cache.example.org"], trustedpublickeys: ["` + key + `"], builders: "@/etc/nix/machines", alloweduris: [], evaluationmemory: 1GB, evaluationtime: 1m, fetchtime: 1h}
collection: {every: 24h}
cachedir: /srv/cache
cachesize: 20GiB
retention: {unused: 720h, keep: 3, maxsize: 200GB}
`, all},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseOptions(config(t, test.stanza).Middleware["repository"][0].Options)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// The example is what users start from, so it must be true: every key in it is known, and every
// value is the default.
func TestExampleConfiguration(t *testing.T) {
	t.Setenv("CACHE_DIRECTORY", "/var/cache/nixery-registry")
	example, err := os.ReadFile("../config.yml.example")
	if err != nil {
		t.Fatal(err)
	}
	set := packageSet(t)
	parsed, err := configuration.Parse(strings.NewReader(strings.Replace(string(example), "/srv/packages", set, 1)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseOptions(parsed.Middleware["repository"][0].Options)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Packages.Path = set
	want.Names.Allow, want.Names.Deny, want.Prebuild = []string{}, []string{}, []string{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSetupFaults(t *testing.T) {
	set := packageSet(t)
	path := "packages: {path: " + set + "}\n"
	const options = "middleware.repository[nix].options."
	const key = "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	for _, test := range []struct {
		name, stanza string
		change       func(*configuration.Configuration)
		want         []string // how the lines begin, in their order
	}{
		{name: "no package set", stanza: "{}", want: []string{options + "packages: names no package set"}},
		{
			name: "package set that is not there", stanza: "packages: {path: /nonexistent/set}",
			want: []string{options + "packages.path: stat /nonexistent/set"},
		},
		{
			name: "unknown keys, at every level", stanza: path + "bulid: {}\nbuild: {timout: 60s}",
			want: []string{
				options + "build.timout: unknown key: did you mean timeout?",
				options + "bulid: unknown key: did you mean build?",
			},
		},
		{
			name:   "keys that are no texts, beside others that are wrong",
			stanza: path + "build: {6: 60, timout: 60s}\nnames: {1.5: a}",
			want: []string{
				options + "build: its key 6 is not a text", options + "names: its key 1.5 is not a text",
				options + "build.timout: unknown key",
			},
		},
		{
			name: "caches and keys that are none",
			stanza: path + "nix: {substituters: [cache.example.org, auto, 'https://a', /nix, 's3://b?region=x']," +
				" trustedpublickeys: [cache.example.org]}",
			want: []string{
				options + `nix.substituters: "cache.example.org" is not the URL of a binary cache`,
				options + `nix.trustedpublickeys: "cache.example.org" is not NAME:BASE64`,
			},
		},
		{
			name:   "as Nix spells it, and as the registry does",
			stanza: path + "nix: {allowed-uris: [], alloweduris: [], allowed-impure-host-deps: []}",
			want: []string{
				options + "nix.allowed-uris: is there as alloweduris, too",
				options + "nix.allowed-impure-host-deps: unknown key",
			},
		},
		{
			name: "site that is not there", stanza: path + "web: {dir: /nonexistent/site}",
			want: []string{options + "web.dir: stat /nonexistent/site"},
		},
		{name: "keys are lower-case", stanza: path + "Shell: [bash]", want: []string{options + "Shell: unknown key: did you mean shell?"}},
		{
			name: "limits of what stays", stanza: path + "retention: {unused: 23h, keep: -1, maxsize: -1, unusde: 1h}",
			want: []string{
				options + "retention.unusde: unknown key", options + "retention.keep: -1 is not between",
				options + "retention.maxsize: -1 is not between", options + "retention.unused: 23h0m0s is not between 24h",
			},
		},
		{
			name:   "two package sets",
			stanza: "packages: {channel: nixos-26.05, git: {url: https://example.org/x}}",
			want:   []string{options + "packages: names several package sets (channel, git): keep one, and remove the others"},
		},
		{name: "no channel", stanza: "packages: {channel: stable, archives: example.org}", want: []string{
			options + "packages.channel: \"example.org\" is not an http",
			options + "packages.channel: \"stable\" is neither a channel",
		}},
		{
			name: "where channels come from, without one",
			stanza: path[:len(path)-2] + ", channels: https://example.org/c, archives: https://example.org/a, " +
				"nixpath: {x: {git: {url: /srv/x}}}}",
			want: []string{
				options + "packages.archives: says where the files of channels come from",
				options + "packages.channels: says where channels come from, and no package set is one",
			},
		},
		{
			name: "no git repository", stanza: "packages: {git: {url: --all, ref: a:b}}",
			want: []string{
				options + "packages.git: \"--all\" is not a URL",
				options + "packages.git: \"a:b\" is not a branch",
			},
		},
		{
			name: "submodules of nothing", stanza: path[:len(path)-2] + ", git: {submodules: true}}",
			want: []string{options + "packages.git.url: missing"},
		},
		{
			name: "submodules of a number", stanza: "packages: {git: {url: /srv/x, submodules: 1}}",
			want: []string{options + "packages.git.submodules: 1 is not true or false"},
		},
		{
			name:   "tags that are no globs",
			stanza: "packages: {git: {url: /srv/x}, tags: [branches, \"[\", \"\"]}",
			want: []string{
				options + "packages.tags: \"\" is not a glob", options + "packages.tags: \"[\" is not a glob",
			},
		},
		{
			name:   "tags of git for a channel",
			stanza: "packages: {channel: nixos-26.05, tags: [branches, \"nixos-*\"]}",
			want:   []string{options + "packages.tags: \"branches\" is about git repositories"},
		},
		{
			name: "tags of a path", stanza: path[:len(path)-2] + ", tags: [\"*\"]}",
			want: []string{options + "packages.tags: says which branches"},
		},
		{
			name:   "what can't be looked up",
			stanza: path[:len(path)-2] + ", nixpath: {a/b: {path: " + set + "}, none: {}, two: {channel: nixos-26.05, path: /x}, other: {chanel: x}, gone: {path: /nonexistent/x}, git: {git: {ref: main}}}}",
			want: []string{
				options + "packages.nixpath.other.chanel: unknown key: did you mean channel?",
				options + "packages.nixpath.a/b: is not a name that can be looked up",
				options + "packages.nixpath.git.git.url: missing",
				options + "packages.nixpath.git: names no package set",
				options + "packages.nixpath.gone.path: stat /nonexistent/x",
				options + "packages.nixpath.none: names no package set",
				options + "packages.nixpath.two: names several package sets (channel, path): keep one, and remove the others",
			},
		},
		{
			name:   "a set to look up that is a text",
			stanza: path[:len(path)-2] + ", nixpath: {nixpkgs: nixos-26.05}}",
			want:   []string{options + "packages.nixpath.nixpkgs: \"nixos-26.05\" is not a map"},
		},
		{
			name:   "a ref of nothing",
			stanza: path[:len(path)-2] + ", git: {ref: main}, keep: 0}\nrefresh: -1s",
			want: []string{
				options + "packages.git.url: missing",
				options + "packages.keep: 0 is not between",
				options + "refresh: -1s is not between",
			},
		},
		{
			name:   "wrong types",
			stanza: path + "build: {concurrency: many, queue: 1.5, timeout: 60}\nshell: bash\nnames: {prefix: y}\nnix: fast\nimage: {compression: lzma}",
			want: []string{
				options + "build.concurrency: \"many\" is not a whole number",
				options + "build.queue: 1.5 is not a whole number",
				options + "build.timeout: 60 has no unit",
				options + "image.compression: ",
				options + "names.prefix: true is not a text",
				options + "nix: \"fast\" is not a map",
				options + "shell: \"bash\" is not a list",
			},
		},
		{
			name:   "all kinds of faults at once",
			stanza: "packages: {path: 3}\nbuild: {queue: -1, timeout: 60, timout: 1}",
			want: []string{
				options + "build.timeout: 60 has no unit",
				options + "packages.path: 3 is not a text",
				options + "build.timout: unknown key",
				options + "build.queue: -1 is not between",
			},
		},
		{
			name:   "no networks, and less time for all than for one",
			stanza: path + "build: {timeout: 2h, total: 1h, newperhour: 0, trustedproxies: [proxy, 10.0.0.0/33, 10.0.0.1, \"::1/128\"]}",
			want: []string{
				options + "build.newperhour: 0 is not between", options + "build.total: 1h0m0s is not between 2h0m0s",
				options + "build.trustedproxies: \"10.0.0.0/33\" is neither an address nor a network",
				options + "build.trustedproxies: \"proxy\" is neither",
			},
		},
		{
			name: "a list with another type in it", stanza: path + "shell: [bash, 3]",
			want: []string{options + "shell[1]: 3 is not a text"},
		},
		{name: "no times and sizes", stanza: path + "build: {hold: soon, maxsize: big}", want: []string{
			options + "build.hold: \"soon\" is not a time", options + "build.maxsize: \"big\" is not a size",
		}},
		{name: "impossible values", stanza: path + `
build: {concurrency: 0, hold: 1ms, maxsize: 0, timeout: 0s}
image: {layers: 200}
nix: {alloweduris: [""]}
names: {allow: ["["], maxpackages: -1, prefix: UPPER}
platforms: [windows/amd64]
cachesize: 1
cachedir: relative`, want: []string{
			options + "build.concurrency: 0 is not between",
			options + "build.hold: 1ms is not between",
			options + "build.maxsize: 0 is not between",
			options + "build.timeout: 0s is not between",
			options + "cachedir: \"relative\" is not an absolute path",
			options + "cachesize: 1 is not between",
			options + "image.layers: 200 is not between",
			options + "names.allow: \"[\" is not a glob",
			options + "names.maxpackages: -1 is not between",
			options + "names.prefix: \"UPPER\"",
			options + "nix.alloweduris: \"\" is not the beginning",
			options + "platforms: \"windows/amd64\" is not a platform",
		}},
		{name: "names of no images", stanza: path + `names: {prefix: nix, maxpackages: 1}
prebuild: [git, nix/UPPER, "localhost:5000/nix/git", "nix/a/b", "nix/git:", "nix/git@sha256:0", nix/git]
refresh: 0s`, want: []string{
			options + "prebuild[0]: \"git\" is not below nix",
			options + "prebuild[1]: \"nix/UPPER\" is not the name of an image",
			options + "prebuild[2]: \"localhost:5000/nix/git\" begins with a host",
			options + "prebuild[3]: 2 packages in one name",
			options + "prebuild[4]: \"nix/git:\" is not the name of an image",
			options + "prebuild[5]: \"nix/git@sha256:0\" is not the name of an image",
			options + "refresh: 0s is too short for prebuild",
		}},
		{
			name: "collecting all the time", stanza: path + "collection: {every: 1m}",
			want: []string{options + "collection.every: 1m0s is neither 0 nor between 1h"},
		},
		{
			name: "collecting in read-only mode", stanza: path + "collection: {every: 24h}",
			change: func(c *configuration.Configuration) {
				c.Storage["maintenance"] = configuration.Parameters{"readonly": map[any]any{"enabled": true}}
			},
			want: []string{options + "collection.every: nothing is deleted in read-only mode"},
		},
		{
			name: "prebuilding in read-only mode", stanza: path + "prebuild: [git]",
			change: func(c *configuration.Configuration) {
				c.Storage["maintenance"] = configuration.Parameters{"readonly": map[any]any{"enabled": true}}
			},
			want: []string{options + "prebuild: nothing is built in read-only mode"},
		},
		{name: "storeless with nothing", stanza: path + "build: {storeless: true}", want: []string{
			options + "nix.substituters: none, and storeless", options + "nix.trustedpublickeys: none, and storeless",
		}},
		{
			name:   "storeless with what needs a store",
			stanza: path + "build: {storeless: true}\nnix: {importfromderivation: true, maxstore: 1GB, substituters: [\"https://x\"], trustedpublickeys: [\"" + key + "\"]}",
			want: []string{
				options + "nix.importfromderivation: takes a Nix store", options + "nix.maxstore: is about the Nix store",
			},
		},
		{
			name:   "what has to be built where nothing is",
			stanza: path + "build: {local: false}\nnix: {importfromderivation: true, builders: \"ssh://x\"}",
			want: []string{
				options + "nix.builders: has packages built", options + "nix.importfromderivation: has packages built",
			},
		},
		{
			name:   "storeless with what it can't use",
			stanza: path + "build: {storeless: true}\nnix: {substituters: [\"ftp://x\", \"https://x?a=b\"], trustedpublickeys: [\"k:1\"]}",
			want: []string{
				options + "nix.substituters: \"ftp://x\" is not a cache",
				options + "nix.substituters: \"https://x?a=b\": storeless builds know no parameter",
				options + "nix.trustedpublickeys: \"k:1\" is not NAME:BASE64",
			},
		},
		{
			name:   "a share without a key, with a password that a netrc file can't have",
			stanza: path + "nix: {share: {to: \"https://a:%22@x\"}}",
			want: []string{
				options + "nix.share.secretkeyfile: \"\" is not the absolute path of a file with a key",
				options + "nix.share.to: the user and the password of x can't be handed to Nix",
			},
		},
		{
			name:   "a share that is no cache",
			stanza: path + "nix: {share: {to: \"ssh://x\", secretkeyfile: \"/no/such/key\", key: 1}}",
			want: []string{
				options + "nix.share.key: unknown key",
				options + "nix.share.secretkeyfile: stat /no/such/key: no such file or directory",
				options + "nix.share.to: \"ssh://x\" is no binary cache",
			},
		},
		{name: "no platform", stanza: path + "platforms: []", want: []string{options + "platforms: none"}},
		{
			name: "a platform twice", stanza: path + "platforms: [linux/amd64, linux/amd64]",
			want: []string{options + "platforms: one is named twice"},
		},
		{
			name: "a pull-through cache", stanza: path,
			change: func(c *configuration.Configuration) { c.Proxy.RemoteURL = "https://registry.example" },
			want:   []string{"proxy.remoteurl: "},
		},
		{
			name: "listed twice", stanza: path,
			change: func(c *configuration.Configuration) {
				c.Middleware["repository"] = append(c.Middleware["repository"], c.Middleware["repository"][0])
			},
			want: []string{"middleware.repository[1]: nix is listed twice"},
		},
		{
			name: "disabled, which the registry ignores", stanza: path,
			change: func(c *configuration.Configuration) { c.Middleware["repository"][0].Disabled = true },
			want:   []string{"middleware.repository[0].disabled: "},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config(t, test.stanza)
			if test.change != nil {
				test.change(c)
			}
			_, err := Setup(c)
			if err == nil {
				t.Fatal("no fault was found")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("%d lines, want %d:\n%v", len(lines), len(test.want), err)
			}
			for i, want := range test.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("line %d is %q, want %q", i, lines[i], want)
				}
			}
			if len(c.Middleware["registry"]) > 0 {
				t.Error("the registry was prepared to be served in spite of the faults")
			}
		})
	}
}

func TestSetupWithoutStanza(t *testing.T) {
	c, err := configuration.Parse(strings.NewReader("version: 0.1\nstorage: {inmemory: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if service, err := Setup(c); service != nil || err != nil {
		t.Errorf("Setup = %v, %v for a registry without the middleware", service, err)
	}
}

// FuzzParseOptions: whatever YAML says, there is an answer, and what is accepted is possible.
func FuzzParseOptions(f *testing.F) {
	set := f.TempDir()
	if err := os.WriteFile(filepath.Join(set, "default.nix"), nil, 0o644); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"names: {allow: [a, 1]}", "build: {timeout: 60}", "shell: {a: b}", "image: [1]", "packages: null",
		"nix: {substituters: [[]]}", "? [a]\n: b", "build: {6: 60}", "packages: {config: {1: {2: 3}}}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stanza string) {
		text := "version: 0.1\nstorage: {inmemory: {}}\nmiddleware:\n  repository:\n    - name: nix\n      options:\n        packages: {path: " + set + "}\n"
		for line := range strings.Lines(stanza) {
			text += "        " + line
		}
		parsed, err := configuration.Parse(strings.NewReader(text))
		if err != nil || len(parsed.Middleware["repository"]) == 0 {
			return
		}
		options, err := ParseOptions(parsed.Middleware["repository"][0].Options)
		if err == nil &&
			(options.Build.Concurrency < 1 || options.Build.Timeout < time.Second || options.Image.Layers < 1) {
			t.Errorf("accepted %+v", options)
		}
	})
}

// What holds for package sets holds for all of them, wherever they come from.
func TestKeep(t *testing.T) {
	nixPath := map[string]any{"nixpkgs": map[string]any{"channel": "nixos-26.05"}}
	options, err := ParseOptions(map[string]any{
		"packages": map[string]any{"path": packageSet(t), "keep": 7, "nixpath": nixPath},
	})
	if err != nil {
		t.Fatal(err)
	}
	packages := options.builder().Packages
	for name, set := range map[string]nixbuilder.Packages{"the set": packages, "nixpkgs": packages.NixPath["nixpkgs"]} {
		if set.PathKeep != 7 || set.Channel.Keep != 7 || set.Git.Keep != 7 {
			t.Errorf("%s keeps %d, %d and %d revisions", name, set.PathKeep, set.Channel.Keep, set.Git.Keep)
		}
	}
}

// Who copies from nix.conf gets what is meant.
func TestAsNixSpells(t *testing.T) {
	set := t.TempDir()
	const key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	options, err := ParseOptions(map[string]any{
		"packages": map[any]any{"path": set},
		"nix": map[any]any{
			"trusted-public-keys": []any{key}, "allowed-uris": []any{"https://a/"}, "import-from-derivation": true,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := options.Nix; !slices.Equal(got.TrustedPublicKeys, []string{key}) ||
		!slices.Equal(got.AllowedURIs, []string{"https://a/"}) || !got.ImportFromDerivation {
		t.Errorf("options %+v", got)
	}
}
