package deploytest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/openapi/openapitest"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// A checker knows what Kubernetes and two of its extensions take.
type checker struct {
	types   *runtime.Scheme
	schemas *jsonschema.Compiler
	// of has the schemas of kinds, as far as there are any.
	of map[string]string
}

// newChecker reads the schemas that client-go brings (core, apps, batch), and that of HTTPRoute.
func newChecker(t *testing.T) *checker {
	t.Helper()
	c := &checker{types: runtime.NewScheme(), schemas: jsonschema.NewCompiler(), of: make(map[string]string)}
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, monitoring.AddToScheme, gateway.Install} {
		if err := add(c.types); err != nil {
			t.Fatal(err)
		}
	}
	paths, err := openapitest.NewEmbeddedFileClient().Paths()
	if err != nil {
		t.Fatal(err)
	}
	for path, group := range paths {
		text, err := group.Schema("application/json")
		if err != nil {
			t.Fatal(err)
		}
		c.add(t, "file:///"+path, text)
	}
	route, err := os.ReadFile(filepath.Join(
		moduleDir(t, "sigs.k8s.io/gateway-api"), "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
	))
	if err != nil {
		t.Fatal(err)
	}
	crd := parse(t, string(route))
	schema := at(t, crd, "spec", "versions", 0, "schema", "openAPIV3Schema")
	if err := c.schemas.AddResource("file:///httproute", schema); err != nil {
		t.Fatal(err)
	}
	c.of["gateway.networking.k8s.io/v1, Kind=HTTPRoute"] = "file:///httproute"
	return c
}

// add takes the schemas of a group.
func (c *checker) add(t *testing.T, url string, text []byte) {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.schemas.AddResource(url, document); err != nil {
		t.Fatal(err)
	}
	var group struct {
		Components struct {
			Schemas map[string]struct {
				Kinds []struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`
			}
		}
	}
	if err := json.Unmarshal(text, &group); err != nil {
		t.Fatal(err)
	}
	for name, schema := range group.Components.Schemas {
		for _, kind := range schema.Kinds {
			version := strings.TrimPrefix(kind.Group+"/"+kind.Version, "/")
			c.of[version+", Kind="+kind.Kind] = url + "#/components/schemas/" + name
		}
	}
}

// check returns what is wrong with an object: keys that its type does not have, values that its
// schema does not permit, entries of lists that have one key.
func (c *checker) check(text string) error {
	var object map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
		return err
	}
	one := &unstructured.Unstructured{Object: object}
	kind := one.GroupVersionKind()
	typed, err := c.types.New(kind)
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict([]byte(text), typed); err != nil {
		return fmt.Errorf("%s %s: %w", kind.Kind, one.GetName(), err)
	}
	if url, ok := c.of[kind.GroupVersion().String()+", Kind="+kind.Kind]; ok {
		schema, err := c.schemas.Compile(url)
		if err != nil {
			return err
		}
		if err := schema.Validate(object); err != nil {
			return fmt.Errorf("%s %s: %w", kind.Kind, one.GetName(), err)
		}
	}
	if scheme.Scheme.Recognizes(kind) {
		if _, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(one); err != nil {
			return fmt.Errorf("%s %s: %w", kind.Kind, one.GetName(), err)
		}
	}
	return nil
}

// moduleDir is where Go keeps a module's files.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module)
	command.Stderr = t.Output()
	dir, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(dir))
}

// TestChecker breaks objects, each in another way, so that a check that sees nothing is seen.
func TestChecker(t *testing.T) {
	c := newChecker(t)
	tests := []struct{ name, object, fault string }{
		{
			"an unknown key",
			"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selectors: {a: b}}}", "selectors",
		},
		{
			"a wrong type",
			"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {serviceName: a, replicas: many}}",
			"replicas",
		},
		{
			"a missing key",
			"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {serviceName: a, template: {}}}",
			"selector",
		},
		{
			"a key twice", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b, a: c}}", "already",
		},
		{
			"a port twice",
			"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}, {port: 80}]}}", "duplicate",
		},
		{
			"a time-out of a route",
			"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, " +
				"spec: {rules: [{timeouts: {request: forever}}]}}",
			"request",
		},
		{
			"an unknown key of a monitor",
			"{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: a}, spec: {endpoints: []}}",
			"endpoints",
		},
		{
			"a policy's port",
			"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, " +
				"spec: {podSelector: {}, egress: [{ports: [{prot: 80}]}]}}",
			"prot",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := c.check(test.object)
			if err == nil || !strings.Contains(err.Error(), test.fault) {
				t.Errorf("it finds %v, want something about %q", err, test.fault)
			}
		})
	}
}
