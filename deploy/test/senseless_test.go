package deploytest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// least are values that can be installed.
const least = "{image: {repository: a}, options: {packages: {channel: nixos-26.05}}}"

// keys of caches, which an installation without a store needs.
const caches = `substituters: ["https://cache.nixos.org"], trustedpublickeys: ["a:b"]`

// TestSenseless has values that make no sense, and the beginning of what is said about each.
func TestSenseless(t *testing.T) {
	tests := []struct{ values, want string }{
		{"image: {repository: ''}", "image.repository: missing"},
		{"image: {tag: a, digest: 'sha256:" + strings.Repeat("0", 64) + "'}", "image.tag: has no effect"},
		{"options: {packages: {channel: null}}", "options.packages: names no package set"},
		{"config: {middleware: {repository: [{name: nix}]}}", "config.middleware.repository: the chart makes"},
		{"store: {enabled: false}", "options.nix.substituters: missing"},
		{"options: {build: {storeless: true}}", "options.nix.substituters: missing"},
		{"{store: {enabled: false}, options: {nix: {substituters: [a]}}}", "options.nix.trustedpublickeys: missing"},
		{
			"{store: {enabled: false}, options: {build: {local: true}, nix: {" + caches + "}}}",
			"options.build.local: builds need a Nix store",
		},
		{
			"{store: {enabled: false}, options: {build: {storeless: false}, nix: {" + caches + "}}}",
			"options.build.storeless: false needs a Nix store",
		},
		{"options: {cachesize: 30GB}", "scratch.size: 20Gi does not hold"},
		{"options: {cachesize: much}", `options.cachesize: "much" is not a size`},
		{"options: {nix: {evaluationmemory: 2 apples}}", `options.nix.evaluationmemory: "2 apples" is not a size`},
		{"options: {build: {hold: 25}}", `options.build.hold: "25" is not a time`},
		{"config: {storage: {s3: {}, gcs: {}}}", "config.storage: names several drivers (gcs,s3)"},
		{
			"config: {storage: {filesystem: {rootdirectory: /data}}}",
			"config.storage.filesystem.rootdirectory: /data is not on the volume",
		},
		{"{config: {storage: {s3: {}}}, images: {existingClaim: a}}", "images.existingClaim: has no effect"},
		{"replicas: 2", "replicas: several share the volume of images, and images.accessMode is ReadWriteOnce"},
		{"{replicas: 2, config: {storage: {inmemory: {}}}}", "replicas: several need a storage that they share"},
		{
			"{replicas: 2, config: {storage: {s3: {}}}, httpSecret: {generate: false}}",
			"httpSecret: several replicas need the same one",
		},
		{
			"{replicas: 2, config: {storage: {s3: {}}}, podDisruptionBudget: {maxUnavailable: 2}}",
			"podDisruptionBudget.maxUnavailable: allows all replicas to be away",
		},
		{"terminationGracePeriodSeconds: 35", "terminationGracePeriodSeconds: must be above"},
		{"config: {http: {draintimeout: 2m}}", "terminationGracePeriodSeconds: must be above"},
		{"ingress: {enabled: true}", "ingress.host: missing"},
		{"ingress: {enabled: true, host: a, timeoutSeconds: 25}", "ingress.timeoutSeconds: must be above"},
		{"{ingress: {enabled: true, host: a}, options: {build: {hold: 5m}}}", "ingress.timeoutSeconds: must be above"},
		{"gateway: {enabled: true}", "gateway.parentRefs: missing"},
		{
			"gateway: {enabled: true, parentRefs: [{name: a}], requestTimeout: 20s}",
			"gateway.requestTimeout: must be 0s (none), or above",
		},
		{
			"metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}",
			"metrics.podMonitor: counts everything twice",
		},
		{"metrics: {enabled: false, rules: {enabled: true}}", "metrics.enabled: false leaves nothing to watch"},
		{"serviceAccount: {workloadIdentity: gke}", "serviceAccount.workloadIdentity: gke gives the identity"},
		{"serviceAccount: {workloadIdentity: eks, create: false}", "serviceAccount.name: missing"},
		{"cleanup: {prune: {schedule: '@daily'}}", "cleanup.prune.args: name no limit"},
		{"cleanup: {garbageCollect: {schedule: '@daily'}}", "cleanup.garbageCollect.schedule: loses what is pushed"},
		{
			"{config: {storage: {maintenance: {readonly: {enabled: true}}}}, cleanup: {collect: {schedule: '@daily'}}}",
			"cleanup: a registry that is read-only",
		},
		{
			"{config: {storage: {inmemory: {}}}, cleanup: {collect: {schedule: '@daily'}}}",
			"cleanup: a job can't see config.storage.inmemory",
		},
		{
			"{images: {accessMode: ReadWriteOncePod}, cleanup: {collect: {schedule: '@daily'}}}",
			"cleanup: a job can't mount the images",
		},
		{"config: {http: {addr: unix}}", `config.http.addr: "unix" has no port`},
	}
	mustRender(t, parse(t, least))
	seen := make(map[string]bool)
	for _, test := range tests {
		t.Run(test.values, func(t *testing.T) {
			_, err := render(t, merged(parse(t, least), parse(t, test.values)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("it says %v, want %s", err, test.want)
			}
		})
		key, _, _ := strings.Cut(test.want, " ")
		seen[key] = true
	}

	// Each reason has a case.
	text, err := os.ReadFile(chartDir + "/templates/_senseless.tpl")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range regexp.MustCompile(`fail (?:\(printf )?"([^ ]+) `).FindAllStringSubmatch(string(text), -1) {
		if !seen[reason[1]] {
			t.Errorf("no case is refused for %s", reason[1])
		}
	}
}

// TestSchema has values of wrong names and types.
func TestSchema(t *testing.T) {
	tests := []struct{ values, want string }{
		{"replica: 3", "replica"},
		{"replicas: three", "/replicas"},
		{"replicas: -1", "/replicas"},
		{"image: {digest: latest}", "/image/digest"},
		{"image: {repository: 'a@sha256:b'}", "/image/repository"},
		{"image: {pullPolicy: Sometimes}", "/image/pullPolicy"},
		{"config: text", "/config"},
		{"options: [a]", "/options"},
		{"secretEnv: {A: value}", "/secretEnv/A"},
		{"secretEnv: {A: {secret: a}}", "/secretEnv/A"},
		{"secretMounts: [{secret: a, path: relative}]", "/secretMounts/0/path"},
		{"store: {size: much}", "/store/size"},
		{"images: {accessMode: Any}", "/images/accessMode"},
		{"service: {type: ExternalName}", "/service/type"},
		{"service: {port: 0}", "/service/port"},
		{"ingress: {controller: apache}", "/ingress/controller"},
		{"gateway: {requestTimeout: long}", "/gateway/requestTimeout"},
		{"tracing: {endpoint: 'otel:4318'}", "/tracing/endpoint"},
		{"networkPolicy: {ports: [https]}", "/networkPolicy/ports/0"},
		{"serviceAccount: {workloadIdentity: aws}", "/serviceAccount/workloadIdentity"},
		{"metrics: {serviceMonitor: {enable: true}}", "enable"},
		{"podLabels: {a: 1}", "/podLabels/a"},
	}
	for _, test := range tests {
		t.Run(test.values, func(t *testing.T) {
			_, err := render(t, merged(parse(t, least), parse(t, test.values)))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "templates/") {
				t.Errorf("it says %v, want something of the schema about %s", err, test.want)
			}
		})
	}
}

// TestValuesAreExplained finds values without a comment that begins with "--", as helm-docs reads
// them.
func TestValuesAreExplained(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var explained bool
	key := regexp.MustCompile(`^( *)([A-Za-z]+):(.*)$`)
	done := -1 // the indentation of a value whose parts need no comments
	for number, line := range strings.Split(string(text), "\n") {
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "#") {
			explained = explained || strings.HasPrefix(trimmed, "# --")
			continue
		}
		found := key.FindStringSubmatch(line)
		if found == nil {
			explained = false
			continue
		}
		indent := len(found[1])
		if done >= 0 && indent > done {
			continue
		}
		done = -1
		switch {
		case explained:
			done = indent
		case strings.TrimSpace(found[3]) != "":
			t.Errorf("values.yaml:%d: %s has no comment", number+1, found[2])
		}
		explained = false
	}
}
