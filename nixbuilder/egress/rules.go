package egress

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Rules are what a list of prefixes of URIs says about hosts.
type Rules struct {
	prefixes []string // without Nix's git+ and hg+, sorted
	named    map[endpoint]bool
	any      map[string]bool // schemes of which all hosts are admitted
}

// An endpoint is the target of a connection.
type endpoint struct{ scheme, host, port string }

func (e endpoint) String() string { return e.scheme + "://" + e.address() }

var ports = map[string]string{"http": "80", "https": "443"}

// NewRules reads a list in the form of nix.alloweduris. It skips entries that allow no connection,
// such as path:/srv.
func NewRules(uris []string) Rules {
	r := Rules{named: make(map[endpoint]bool), any: make(map[string]bool)}
	for _, uri := range uris {
		uri = strings.TrimPrefix(strings.TrimPrefix(uri, "git+"), "hg+")
		scheme, rest, ok := strings.Cut(uri, "://")
		if !ok {
			continue
		}
		r.prefixes = append(r.prefixes, uri)
		if rest == "" {
			r.any[scheme] = true
			continue
		}
		if parsed, err := url.Parse(uri); err == nil && parsed.Hostname() != "" {
			r.named[newEndpoint(scheme, parsed.Hostname(), parsed.Port())] = true
		}
	}
	slices.Sort(r.prefixes)
	r.prefixes = slices.Compact(r.prefixes)
	return r
}

// has tells whether the list has an entry of a scheme.
func (r Rules) has(scheme string) bool {
	return slices.ContainsFunc(r.prefixes, func(prefix string) bool { return strings.HasPrefix(prefix, scheme+"://") })
}

// SSH tells whether something may be fetched by ssh, which asks no proxy.
func (r Rules) SSH() bool { return r.has("ssh") }

// GitEnvironment returns variables that restrict git to the list, also for submodules and theirs,
// and to the protocols of its entries. In the directories in own, git may read repositories of this
// machine.
func (r Rules) GitEnvironment(own ...string) []string {
	var settings [][2]string
	var protocols []string
	// Git applies the longest setting that fits a URL. A URL that no entry begins is rewritten to a
	// protocol that does not exist.
	for _, scheme := range []string{"https", "http", "ssh"} {
		if r.has(scheme) {
			protocols = append(protocols, scheme)
		}
		if !r.any[scheme] {
			settings = append(settings, [2]string{"url.not-in-alloweduris://.insteadOf", scheme + "://"})
		}
	}
	for _, prefix := range r.prefixes {
		settings = append(settings, [2]string{"url." + prefix + ".insteadOf", prefix})
	}
	if len(own) > 0 {
		protocols = append(protocols, "file")
		for _, elsewhere := range []string{"/", "file:"} {
			settings = append(settings, [2]string{"url.not-in-alloweduris://.insteadOf", elsewhere})
		}
		for _, directory := range own {
			settings = append(settings, [2]string{"url." + directory + "/.insteadOf", directory + "/"})
		}
	}
	if len(protocols) == 0 {
		protocols = []string{"none"} // to git, no protocols mean all
	}
	environment := []string{
		"GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ALLOW_PROTOCOL=" + strings.Join(protocols, ":"),
		fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(settings)),
	}
	for i, setting := range settings {
		environment = append(environment,
			fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, setting[0]),
			fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, setting[1]),
		)
	}
	return environment
}
