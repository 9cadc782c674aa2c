package configcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
)

// http is about where the registry listens.
func (f *faults) http(c configuration.HTTP) {
	switch c.Net {
	case "", "tcp", "unix":
	default:
		f.add("http.net: %q is neither tcp nor unix", c.Net)
	}
	switch {
	case c.Addr == "":
		f.add("http.addr: missing: write :5000, or the registry listens on a port that nobody knows")
	case c.Net != "unix":
		f.address("http.addr", c.Addr)
	}
	if c.Debug.Addr != "" {
		f.address("http.debug.addr", c.Debug.Addr)
	} else if c.Debug.Prometheus.Enabled {
		f.add("http.debug.prometheus: metrics are served on http.debug.addr, which is missing")
	}
	if c.Host != "" {
		f.url("http.host", c.Host, "https", "http")
	}
	if c.Prefix != "" && (!strings.HasPrefix(c.Prefix, "/") || !strings.HasSuffix(c.Prefix, "/")) {
		f.add("http.prefix: %q does not begin and end with a slash", c.Prefix)
	}
	if c.DrainTimeout < 0 {
		f.add("http.draintimeout: %v is less than nothing", c.DrainTimeout)
	}
}

// address is about host:port, whose host may be missing.
func (f *faults) address(key, text string) {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		f.add("%s: %q is not an address such as :5000 or 127.0.0.1:5000", key, text)
		return
	}
	if _, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port); err != nil || port == "" {
		f.add("%s: %q has no port between 1 and 65535 after its colon", key, text)
	}
}

// url is about an absolute URL of one of some schemes.
func (f *faults) url(key, text string, schemes ...string) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" || !slices.Contains(schemes, parsed.Scheme) {
		f.add("%s: %q is not a URL that begins with %s://", key, redacted(text), strings.Join(schemes, ":// or "))
	}
}

// redacted leaves out what may be a password.
func redacted(text string) string {
	if before, after, ok := strings.Cut(text, "@"); ok {
		scheme, _, _ := strings.Cut(before, "://")
		return scheme + "://…@" + after
	}
	return text
}

// file is about a file that the registry reads.
func (f *faults) file(key, name string) (content []byte, ok bool) {
	content, err := os.ReadFile(name)
	if err != nil {
		f.add("%s: %w", key, err)
	}
	return content, err == nil
}

// storage is about which driver there is. What a driver says about its parameters is found out when
// the registry is tried out.
func (f *faults) storage(c configuration.Storage) {
	var drivers []string
	for key := range c {
		switch key {
		case "cache", "delete", "maintenance", "redirect", "tag":
		default:
			drivers = append(drivers, key)
		}
	}
	slices.Sort(drivers)
	known := []string{"azure", "filesystem", "gcs", "inmemory", "s3", "s3aws"}
	switch {
	case len(drivers) != 1:
		f.add("storage: names %d drivers (%s): give one of %s",
			len(drivers), strings.Join(drivers, ", "), strings.Join(known, ", "))
	case !slices.Contains(known, drivers[0]):
		f.add("storage.%s: there is no such driver%s", drivers[0], suggestion(drivers[0], known))
	case drivers[0] == "filesystem":
		root, _ := c[drivers[0]]["rootdirectory"].(string)
		if info, err := os.Stat(root); err == nil && !info.IsDir() {
			f.add("storage.filesystem.rootdirectory: %s is not a directory", root)
		}
	}
	cache := c["cache"]
	switch kind := firstOf(cache["blobdescriptor"], cache["layerinfo"]); kind {
	case nil, "", "inmemory", "redis":
	default:
		f.add("storage.cache.blobdescriptor: %v is neither inmemory nor redis", kind)
	}
	for _, key := range []string{"delete.enabled", "redirect.disable", "maintenance.readonly.enabled"} {
		f.boolean(c, key)
	}
	f.purging(c["maintenance"]["uploadpurging"])
}

// purging is about the removal of uploads that were left. The registry has defaults for all of it or
// for nothing.
func (f *faults) purging(section any) {
	c, ok := section.(map[any]any)
	if section == nil || ok && c["enabled"] == false {
		return
	}
	const key = "storage.maintenance.uploadpurging"
	if !ok {
		f.add("%s: %v is not a map of keys", key, section)
		return
	}
	for _, name := range []string{"age", "interval"} {
		text, _ := c[name].(string)
		if _, err := time.ParseDuration(text); err != nil {
			f.add("%s.%s: missing, or not a time such as 24h", key, name)
		}
	}
	if _, ok := c["dryrun"].(bool); !ok {
		f.add("%s.dryrun: missing, or neither true nor false", key)
	}
}

func firstOf(values ...any) any {
	for _, value := range values {
		if value != nil {
			return value
		}
	}
	return nil
}

// boolean is about a switch in a section of storage: the registry stops at some that are neither,
// and takes others to be off.
func (f *faults) boolean(c configuration.Storage, key string) {
	parts := strings.Split(key, ".")
	var value any = map[string]any(c[parts[0]])
	for _, part := range parts[1:] {
		switch section := value.(type) {
		case map[string]any:
			value = section[part]
		case map[any]any:
			value = section[part]
		default:
			value = nil
		}
	}
	if _, ok := value.(bool); !ok && value != nil {
		f.add("storage.%s: %v is neither true nor false", key, value)
	}
}

// auth is about the access controller.
func (f *faults) auth(c configuration.Auth) {
	known := open["auth"]
	for _, kind := range slices.Sorted(maps.Keys(c)) {
		if !slices.Contains(known, kind) {
			f.add("auth.%s: there is no such access controller%s", kind, suggestion(kind, known))
			continue
		}
		f.controller("auth."+kind, kind, c[kind])
	}
}

// controller is about what an access controller needs, before the registry makes it.
func (f *faults) controller(key, kind string, options map[string]any) {
	switch kind {
	case "anonymouspull":
		for name, inner := range options {
			if named, ok := inner.(map[any]any); ok {
				texts := make(map[string]any, len(named))
				for one, value := range named {
					texts[fmt.Sprint(one)] = value
				}
				f.controller(key+"."+name, name, texts)
			}
		}
	case "htpasswd":
		f.required(key, options, "realm", "path")
		if path, ok := options["path"].(string); ok {
			f.htpasswd(key+".path", path)
		}
	case "token":
		f.required(key, options, "realm", "service", "issuer")
		for _, name := range []string{"rootcertbundle", "jwks"} {
			if path, ok := options[name].(string); ok && path != "" {
				f.file(key+"."+name, path)
			}
		}
	case "silly":
		f.required(key, options, "realm", "service")
	}
}

func (f *faults) required(key string, options map[string]any, names ...string) {
	for _, name := range names {
		if text, ok := options[name].(string); !ok || text == "" {
			f.add("%s.%s: missing, or not a text", key, name)
		}
	}
}

// htpasswd is about a file of users and hashes. If there is none, the registry makes one with a
// user of its own.
func (f *faults) htpasswd(key, path string) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		f.add("%s: %w", key, err)
		return
	}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		line = strings.TrimSpace(line)
		user, hash, ok := strings.Cut(line, ":")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !ok || user == "":
			f.add("%s: line %d of %s is not USER:HASH", key, number, path)
		case !strings.HasPrefix(hash, "$2"):
			f.add("%s: line %d of %s: the hash is not bcrypt's, so %s can't log in: make it with `htpasswd -B`",
				key, number, path, user)
		}
	}
}

func (f *faults) log(c configuration.Log) {
	switch c.Formatter {
	case "", "text", "json", "logstash":
	default:
		f.add("log.formatter: %q is none of text, json, logstash", c.Formatter)
	}
	for i, hook := range c.Hooks {
		if hook.Type != "mail" {
			f.add("log.hooks[%d].type: %q is not mail, the only one that there is", i, hook.Type)
		}
	}
}

func (f *faults) redis(config *configuration.Configuration) {
	c := config.Redis
	for i, address := range c.Options.Addrs {
		if !strings.HasPrefix(address, "/") {
			f.address(fmt.Sprintf("redis.addrs[%d]", i), address)
		}
	}
	if config.Storage["cache"]["blobdescriptor"] == "redis" && len(c.Options.Addrs) == 0 {
		f.add("storage.cache.blobdescriptor: redis takes redis.addrs, which is missing")
	}
	f.keyPair("redis.tls", c.TLS.Certificate, c.TLS.Key)
	f.authorities("redis.tls.rootcas", c.TLS.RootCAs)
}

func (f *faults) notifications(c configuration.Notifications) {
	seen := make(map[string]bool)
	for i, endpoint := range c.Endpoints {
		key := fmt.Sprintf("notifications.endpoints[%d]", i)
		if endpoint.Name == "" {
			f.add("%s.name: missing", key)
		} else if seen[endpoint.Name] {
			f.add("%s.name: %q is the name of two endpoints", key, endpoint.Name)
		}
		seen[endpoint.Name] = true
		if !endpoint.Disabled {
			f.url(key+".url", endpoint.URL, "https", "http")
		}
	}
}

func (f *faults) health(c configuration.Health) {
	for i, check := range c.HTTPCheckers {
		f.url(fmt.Sprintf("health.http[%d].uri", i), check.URI, "https", "http")
	}
	for i, check := range c.TCPCheckers {
		f.address(fmt.Sprintf("health.tcp[%d].addr", i), check.Addr)
	}
	if c.StorageDriver.Enabled && c.StorageDriver.Interval > 0 && c.StorageDriver.Interval < time.Second {
		f.add("health.storagedriver.interval: %v is a load of its own: take 10s", c.StorageDriver.Interval)
	}
}

// middleware is about the names of stanzas. Those of repositories are looked at beside the options
// of the one that there is.
func (f *faults) middleware(c map[string][]configuration.Middleware) {
	known := []string{"cloudfront", "redirect", "rewrite"}
	for i, stanza := range c["storage"] {
		if stanza.Name != "nix" && !slices.Contains(known, stanza.Name) { // what the middleware adds is its own
			f.add("middleware.storage[%d].name: there is no storage middleware %q%s",
				i, stanza.Name, suggestion(stanza.Name, known))
		}
	}
	for i, stanza := range c["registry"] {
		if stanza.Name != "nix" {
			f.add("middleware.registry[%d].name: there is no registry middleware %q", i, stanza.Name)
		}
	}
}
