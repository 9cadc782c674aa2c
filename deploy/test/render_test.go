package deploytest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const chartDir = "../chart"

// A rendering is what Helm makes of the chart: the objects in the order of their installation, and
// the pods of `helm test`, each as text.
type rendering struct {
	objects, tests []string
	notes          string
}

// loadChart reads the chart once.
var loadChart = sync.OnceValues(func() (*chart.Chart, error) { return loader.Load(chartDir) })

// A cluster is what templates look objects up in: Secrets, as nothing else is looked up.
type cluster []*corev1.Secret

// GetClientFor is called by Helm's engine.
func (c cluster) GetClientFor(version, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	if version != "v1" || kind != "Secret" {
		return nil, false, fmt.Errorf("the chart looks up %s %s", version, kind)
	}
	var objects []runtime.Object
	for _, secret := range c {
		objects = append(objects, secret)
	}
	client := fake.NewSimpleDynamicClient(scheme.Scheme, objects...)
	return client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")), true, nil
}

// render renders the chart as the release r in the namespace n, where some Secrets are already.
func render(t *testing.T, values map[string]any, secrets ...*corev1.Secret) (rendering, error) {
	t.Helper()
	return renderAs(t, "r", values, secrets...)
}

func renderAs(t *testing.T, name string, values map[string]any, secrets ...*corev1.Secret) (rendering, error) {
	t.Helper()
	loaded, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	release := common.ReleaseOptions{Name: name, Namespace: "n", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(loaded, values, release, common.DefaultCapabilities)
	if err != nil {
		return rendering{}, err
	}
	files, err := engine.RenderWithClientProvider(loaded, all, cluster(secrets))
	if err != nil {
		return rendering{}, err
	}
	var made rendering
	for name, text := range files {
		if filepath.Base(name) == "NOTES.txt" {
			made.notes = text
			delete(files, name)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return rendering{}, err
	}
	for _, manifest := range manifests {
		made.objects = append(made.objects, strings.TrimSpace(manifest.Content)+"\n")
	}
	for _, hook := range hooks {
		made.tests = append(made.tests, hook.Manifest)
	}
	return made, nil
}

// mustRender renders the chart, or ends the test.
func mustRender(t *testing.T, values map[string]any) rendering {
	t.Helper()
	made, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// valuesOf reads a file of ../chart/ci.
func valuesOf(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chartDir, "ci", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

// parse reads YAML as Helm does.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return values
}

// object returns the one object of a kind and name.
func (r rendering) object(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	var found *unstructured.Unstructured
	for _, text := range r.objects {
		one := &unstructured.Unstructured{Object: parse(t, text)}
		if one.GetKind() == kind && one.GetName() == name {
			if found != nil {
				t.Fatalf("there are two of %s %s", kind, name)
			}
			found = one
		}
	}
	if found == nil {
		t.Fatalf("there is no %s %s in\n%s", kind, name, strings.Join(r.objects, "---\n"))
	}
	return found
}

// at returns what is at a path in an object. Numbers in the path are indices.
func at(t *testing.T, value any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			below, _ := value.(map[string]any)
			value = below[step]
		case int:
			below, _ := value.([]any)
			if step >= len(below) {
				t.Fatalf("%v: there are %d", path, len(below))
			}
			value = below[step]
		}
	}
	return value
}

// sameAs compares a file with what it should be, or makes it so with UPDATE=yes.
func sameAs(t *testing.T, name string, want []byte) {
	t.Helper()
	if os.Getenv("UPDATE") == "yes" {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the chart makes: `make manifests` renews it; it should be\n%s", name, want)
	}
}
