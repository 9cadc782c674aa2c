package deploytest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDetails compares single fields of what the chart makes.
func TestDetails(t *testing.T) {
	loaded, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	const set = "StatefulSet/r-nixery-registry"
	registry := []any{"spec", "template", "spec", "containers", 0}
	limit := append(slices.Clone(registry), "resources", "limits", "memory")
	egress := []any{"spec", "egress", 1, "ports"}
	tests := []struct {
		name   string
		values string // on top of those of ci/s3.yaml
		object string
		path   []any
		want   string
	}{
		{"twice four evaluations of 1.5 GiB, and 2 GiB", "", set, limit, "14336Mi"},
		{"other evaluations", "options: {nix: {evaluationmemory: 512MiB}}", set, limit, "6144Mi"},
		{"own resources", "resources: {limits: {memory: 3Gi}}", set, limit, "3Gi"},
		{"one evaluation fewer", "options: {build: {concurrency: 1}}", set, limit, "5120Mi"},
		{
			"a digest", "", set, append(slices.Clone(registry), "image"),
			"registry.example.org/nixery-registry@" +
				"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		},
		{"a tag", "image: {tag: a, digest: null}", set, append(slices.Clone(registry), "image"),
			"registry.example.org/nixery-registry:a"},
		{"the version", "image: {digest: null}", set, append(slices.Clone(registry), "image"),
			"registry.example.org/nixery-registry:" + loaded.Metadata.AppVersion},
		{"no volume of images, as there is a bucket", "", set, []any{"spec", "volumeClaimTemplates", 1}, "none"},
		{"a service account's token is not mounted", "", set,
			[]any{"spec", "template", "spec", "automountServiceAccountToken"}, "false"},
		{"the builder has no variables of Secrets", "", set,
			[]any{"spec", "template", "spec", "containers", 1, "env"}, "[map[name:HOME value:/tmp]]"},
		{"the daemon trusts the registry, as there are substituters", "", "ConfigMap/r-nixery-registry-nix",
			[]any{"data", "nix.conf"}, "build-users-group =\nsandbox = false\ntrusted-users = registry"},
		{"it does not, as there are none", "options: {nix: {substituters: null, trustedpublickeys: null}}",
			"ConfigMap/r-nixery-registry-nix", []any{"data", "nix.conf"}, "build-users-group =\nsandbox = false"},
		{"the ports of MinIO, Redis and a cache", "", "NetworkPolicy/r-nixery-registry", egress,
			ports(22, 443, 5000, 6379, 9000)},
		{"the port of traces", "tracing: {endpoint: 'http://otel.monitoring:4318'}", "NetworkPolicy/r-nixery-registry",
			egress, ports(22, 4318, 443, 5000, 6379, 9000)},
		{"the port of an URL by its scheme, with a password, an address of IPv6",
			`options: {nix: {substituters: ["http://u:p@cache.example.org/a:b", "https://[::1]:7443/"]}}`,
			"NetworkPolicy/r-nixery-registry", egress, ports(22, 443, 6379, 7443, 80, 9000)},
		{"time-outs of the proxy", "ingress: {timeoutSeconds: 77}", "Ingress/r-nixery-registry",
			[]any{"metadata", "annotations", "nginx.ingress.kubernetes.io/proxy-read-timeout"}, "77"},
		{"bodies of any size", "", "Ingress/r-nixery-registry",
			[]any{"metadata", "annotations", "nginx.ingress.kubernetes.io/proxy-body-size"}, "0"},
		{"identities of a cloud are not for the builder", "serviceAccount: {workloadIdentity: eks}", set,
			[]any{"spec", "template", "metadata", "annotations", "eks.amazonaws.com/skip-containers"},
			"nix-store,nix-daemon"},
		{"the probes of a registry that ends TLS", "config: {http: {tls: {certificate: /a, key: /b}}}", set,
			append(slices.Clone(registry), "readinessProbe", "httpGet", "scheme"), "HTTPS"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			values := merged(valuesOf(t, "s3"), parse(t, test.values))
			kind, name, _ := strings.Cut(test.object, "/")
			object := mustRender(t, values).object(t, kind, name)
			if test.want == "none" {
				list, _ := at(t, object.Object, test.path[:len(test.path)-1]...).([]any)
				if len(list) > test.path[len(test.path)-1].(int) {
					t.Errorf("there is %v", list)
				}
				return
			}
			if got := strings.TrimSpace(fmt.Sprint(at(t, object.Object, test.path...))); got != test.want {
				t.Errorf("%v of %s is %s, want %s", test.path, test.object, got, test.want)
			}
		})
	}
}

// ports is a list of ports as a policy has it.
func ports(numbers ...int) string {
	var list []string
	for _, number := range numbers {
		list = append(list, fmt.Sprintf("map[port:%d protocol:TCP]", number))
	}
	return "[" + strings.Join(list, " ") + "]"
}

// merged lays values over others, as Helm does with a second file.
func merged(below, above map[string]any) map[string]any {
	for key, value := range above {
		old, isMap := below[key].(map[string]any)
		if value, ok := value.(map[string]any); ok && isMap {
			below[key] = merged(old, value)
		} else {
			below[key] = above[key]
		}
	}
	return below
}

// TestPage renders each block of values in docs/install/kubernetes.md, on top of the least.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/install/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	if len(blocks) < 10 {
		t.Fatalf("the page has %d blocks of YAML", len(blocks))
	}
	check := newChecker(t)
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		made, err := render(t, merged(parse(t, least), parse(t, block)))
		if err != nil {
			t.Errorf("%v:\n%s", err, block)
		}
		for _, object := range made.objects {
			if err := check.check(object); err != nil {
				t.Errorf("%v:\n%s", err, block)
			}
		}
	}
}
