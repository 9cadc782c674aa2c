package configcheck_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/silly"
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/gcs"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/middleware/cloudfront"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/middleware/redirect"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"

	"github.com/nixery-registry/nixery-registry/internal/configcheck"
)

// faultsOf returns what both checks say about a text, or the registry's own fault.
func faultsOf(text string) (found []string) {
	faults := configcheck.Keys([]byte(text))
	config, err := configuration.Parse(strings.NewReader(text))
	if err != nil {
		return []string{"parse: " + err.Error()}
	}
	for _, fault := range append(faults, configcheck.Values(config)...) {
		found = append(found, fault.Error())
	}
	return found
}

// Configurations that the registry takes, and that do not do what they say, or end it later.
func TestBroken(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	users := write("users", "# ours\nalice:$2y$05$abcdefghijklmnopqrstuu\nbob:$apr1$x$y\nnobody\n")
	empty := write("empty.pem", "nothing\n")
	const good = "version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: ':5000'}\n"
	http := func(keys string) string { return strings.Replace(good, "{addr", "{"+keys+", addr", 1) }
	const storage = "version: 0.1\nhttp: {addr: ':5000'}\nstorage:\n"
	for _, test := range []struct {
		name, text string
		want       []string // how the faults begin
	}{
		{"nothing wrong", good, nil},
		{
			"section misspelt", "version: 0.1\nstorage: {inmemory: {}}\nhtttp: {addr: ':5000'}\n",
			[]string{"line 3: htttp: unknown key: did you mean http?", "http.addr: missing"},
		},
		{
			"key misspelt", "version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: ':5000', drantimeout: 3s}\n",
			[]string{"line 3: http.drantimeout: unknown key: did you mean draintimeout?"},
		},
		{"key of another section", good + "addr: ':5000'\n", []string{"line 4: addr: unknown key"}},
		{"in a list", good + "notifications: {endpoints: [{name: a, url: 'https://a', thresold: 3}]}\n", []string{
			"line 4: notifications.endpoints[0].thresold: unknown key: did you mean threshold?",
		}},
		{"upper case", good + "Log: {level: info}\n", []string{"line 4: Log: unknown key: did you mean log?"}},
		{"no unit", "version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: ':5000', draintimeout: 30}\n", []string{
			"line 3: http.draintimeout: 30 has no unit: write 30s",
		}},
		{"driver misspelt", storage + "  filesytem: {rootdirectory: /tmp}\n", []string{
			"line 4: storage.filesytem: unknown key: did you mean filesystem?", "storage.filesytem: there is no such driver",
		}},
		{"driver's key misspelt", storage + "  filesystem: {rootdirectry: /tmp}\n", []string{
			"line 4: storage.filesystem.rootdirectry: unknown key: did you mean rootdirectory?",
		}},
		{"no driver", storage + "  delete: {enabled: true}\n", []string{"parse: no storage"}},
		{"s3 without a bucket", storage + "  s3: {region: us-east-1}\n", []string{
			"the registry does not start: no bucket parameter provided",
		}},
		{"s3 without a region", storage + "  s3: {bucket: x}\n", []string{
			"the registry does not start: no region parameter provided",
		}},
		{"gcs with a key file that is not there", storage + "  gcs: {bucket: x, keyfile: /nonexistent/key.json}\n", []string{
			"the registry does not start: open /nonexistent/key.json",
		}},
		{"root directory is a file", storage + "  filesystem: {rootdirectory: " + users + "}\n", []string{
			"storage.filesystem.rootdirectory: " + users + " is not a directory",
		}},
		{"switch that is a text", storage + "  inmemory: {}\n  delete: {enabled: 'yes'}\n", []string{
			"storage.delete.enabled: yes is neither",
		}},
		{"switch of maintenance", storage + "  inmemory: {}\n  maintenance: {readonly: {enabled: 1}}\n", []string{
			"storage.maintenance.readonly.enabled: 1 is neither",
		}},
		{"purging without an age", storage + "  inmemory: {}\n  maintenance: {uploadpurging: {enabled: true}}\n", []string{
			"storage.maintenance.uploadpurging.age: missing", "storage.maintenance.uploadpurging.interval: missing",
			"storage.maintenance.uploadpurging.dryrun: missing",
		}},
		{"cache of another kind", storage + "  inmemory: {}\n  cache: {blobdescriptor: memcached}\n", []string{
			"storage.cache.blobdescriptor: memcached is neither",
		}},
		{"cache without redis", storage + "  inmemory: {}\n  cache: {blobdescriptor: redis}\n", []string{
			"storage.cache.blobdescriptor: redis takes redis.addrs",
		}},
		{"redis's address", good + "redis: {addrs: [localhost]}\n", []string{`redis.addrs[0]: "localhost" is not an address`}},
		{"address without a colon", strings.ReplaceAll(good, "':5000'", "'5000'"), []string{`http.addr: "5000" is not an address`}},
		{"port out of range", strings.ReplaceAll(good, ":5000", ":70000"), []string{`http.addr: ":70000" has no port`}},
		{"network", http("net: udp"), []string{`http.net: "udp"`}},
		{"host without a scheme", http("host: r.example.org"), []string{`http.host: "r.example.org" is not a URL`}},
		{"prefix", http("prefix: /x"), []string{`http.prefix: "/x" does not begin and end`}},
		{"certificate that is not there", http("tls: {certificate: /nonexistent/c, key: /nonexistent/k}"), []string{
			"http.tls: open /nonexistent/c",
		}},
		{"key without a certificate", http("tls: {key: /nonexistent/k}"), []string{"http.tls.certificate: missing"}},
		{"certificate without a key", http("tls: {certificate: /nonexistent/c}"), []string{"http.tls.key: missing"}},
		{"authorities that are none", http("tls: {clientcas: [" + empty + "]}"), []string{
			"http.tls.certificate: missing", "http.tls.clientcas[0]: " + empty + " has no certificate",
		}},
		{"TLS of old", http("tls: {minimumtls: tls1.0}"), []string{`http.tls.minimumtls: "tls1.0"`}},
		{"cipher suite", http("tls: {ciphersuites: [TLS_AES_128_GCM_SHA265]}"), []string{
			"http.tls.ciphersuites: there is none of the name TLS_AES_128_GCM_SHA265: did you mean TLS_AES_128_GCM_SHA256?",
		}},
		{"letsencrypt without a cache", http("tls: {letsencrypt: {email: a@example.org}}"), []string{
			"http.tls.letsencrypt.cachefile: missing",
		}},
		{"metrics without an address", http("debug: {prometheus: {enabled: true}}"), []string{"http.debug.prometheus: "}},
		{"access controller", good + "auth: {htpaswd: {realm: r, path: /x}}\n", []string{
			"line 4: auth.htpaswd: unknown key: did you mean htpasswd?", "auth.htpaswd: there is no such access controller",
		}},
		{"htpasswd without a path", good + "auth: {htpasswd: {realm: r}}\n", []string{"auth.htpasswd.path: missing"}},
		{"users that can't log in", good + "auth: {htpasswd: {realm: r, path: " + users + "}}\n", []string{
			"auth.htpasswd.path: line 3 of " + users + ": the hash is not bcrypt's, so bob can't log in",
			"auth.htpasswd.path: line 4 of " + users + " is not USER:HASH",
		}},
		{"behind anonymouspull", good + "auth: {anonymouspull: {htpasswd: {realm: r, pth: x}}}\n", []string{
			"line 4: auth.anonymouspull.htpasswd.pth: unknown key: did you mean path?", "auth.anonymouspull.htpasswd.path: missing",
		}},
		{"token without an issuer", good + "auth: {token: {realm: 'https://a', service: s, rootcertbundle: /nonexistent/b}}\n", []string{
			"auth.token.issuer: missing", "auth.token.rootcertbundle: open /nonexistent/b",
		}},
		{"bundle without certificates", good + "auth: {token: {realm: 'https://a', service: s, issuer: i, rootcertbundle: " + empty + "}}\n", []string{
			"the registry does not start: ",
		}},
		{"endpoint's URL", good + "notifications: {endpoints: [{name: a, url: a.example.org/hook}, {name: a, url: 'https://u:secret@'}]}\n", []string{
			`notifications.endpoints[0].url: "a.example.org/hook" is not a URL`, "notifications.endpoints[1].name: ",
			`notifications.endpoints[1].url: "https://…@" is not`,
		}},
		{"health", good + "health: {http: [{uri: x}], tcp: [{addr: y}]}\n", []string{"health.http[0].uri: ", "health.tcp[0].addr: "}},
		{"log's form", good + "log: {formatter: jsn}\n", []string{`log.formatter: "jsn"`}},
		{"mirror", good + "proxy: {remoteurl: registry-1.docker.io}\n", []string{`proxy.remoteurl: "registry-1.docker.io"`}},
		{"storage middleware", good + "middleware: {storage: [{name: redirct}]}\n", []string{
			`middleware.storage[0].name: there is no storage middleware "redirct": did you mean redirect?`,
		}},
		{"redirect without a URL", good + "middleware: {storage: [{name: redirect}]}\n", []string{"the registry does not start: "}},
		{"kind of middleware", good + "middleware: {repositories: [{name: nix}]}\n", []string{
			"line 4: middleware.repositories: unknown key: did you mean repository?",
		}},
		{"twice", good + "log: {level: info}\nlog: {level: debug}\n", []string{"line 5: log: is there twice"}},
		{"anchors and merges", "version: 0.1\nstorage: {inmemory: {}}\nx: &a {addr: ':5000'}\nhttp:\n  <<: *a\n  hoost: h\n", []string{
			"line 3: x: unknown key", "line 6: http.hoost: unknown key: did you mean host?",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := faultsOf(test.text)
			matches := slices.EqualFunc(got, test.want, strings.HasPrefix)
			if !matches {
				t.Errorf("faults:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// upstream is the directory of the registry's source.
func upstream(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/distribution/distribution/v3").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// What upstream shows as an example is right.
func TestExamplesOfUpstream(t *testing.T) {
	examples, err := filepath.Glob(filepath.Join(upstream(t), "cmd/registry/config-*.yml"))
	if err != nil || len(examples) < 3 {
		t.Fatal(examples, err)
	}
	for _, file := range examples {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if faults := faultsOf(string(text)); len(faults) > 0 {
			t.Errorf("%s:\n%s", filepath.Base(file), strings.Join(faults, "\n"))
		}
	}
}

// Every parameter that a driver or an access controller of upstream looks up is known.
func TestParametersOfUpstream(t *testing.T) {
	looksUp := regexp.MustCompile(`(?:parameters|options)\["([a-z_0-9]+)"\]|parameters, "([a-z_0-9]+)"|mapstructure:"([a-z_0-9]+)"`)
	for section, dir := range map[string]string{
		"storage: {filesystem: {%s: x}}": "registry/storage/driver/filesystem",
		"storage: {gcs: {%s: x}}":        "registry/storage/driver/gcs",
		"storage: {s3: {%s: x}}":         "registry/storage/driver/s3-aws",
		"storage: {azure: {%s: x}}":      "registry/storage/driver/azure",
		"auth: {htpasswd: {%s: x}}":      "registry/auth/htpasswd",
		"auth: {token: {%s: x}}":         "registry/auth/token",
		"auth: {silly: {%s: x}}":         "registry/auth/silly",
	} {
		files, err := filepath.Glob(filepath.Join(upstream(t), dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, file := range files {
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range looksUp.FindAllStringSubmatch(string(code), -1) {
				key := match[1] + match[2] + match[3]
				if strings.HasSuffix(file, "_test.go") {
					continue
				}
				found++
				faults := configcheck.Keys(fmt.Appendf(nil, section, key))
				if strings.HasSuffix(dir, "azure") && len(faults) > 0 { // some are a level below
					faults = configcheck.Keys(fmt.Appendf(nil, "storage: {azure: {credentials: {%s: x}}}", key))
				}
				if len(faults) > 0 {
					t.Errorf("%s: %v", dir, faults)
				}
			}
		}
		if found < 2 {
			t.Errorf("%s: found %d parameters", dir, found)
		}
	}
}

// Whatever a configuration is, the checks come to an end.
func FuzzKeys(f *testing.F) {
	f.Add("version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: ':5000'}\n")
	f.Add("a: &a [*a]\n")
	f.Add("http: {tls: {clientcas: {}}}\n? [x]\n: y\n")
	f.Fuzz(func(_ *testing.T, text string) { configcheck.Keys([]byte(text)) })
}
