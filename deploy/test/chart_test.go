package deploytest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// cases are the names of the values in ../chart/ci, and the objects that are made of them.
var cases = map[string]string{
	"minimal": "NetworkPolicy/r-nixery-registry ServiceAccount/r-nixery-registry Secret/r-nixery-registry-config " +
		"ConfigMap/r-nixery-registry-nix PersistentVolumeClaim/r-nixery-registry-images " +
		"Service/r-nixery-registry Service/r-nixery-registry-headless StatefulSet/r-nixery-registry",
	"s3": "NetworkPolicy/r-nixery-registry PodDisruptionBudget/r-nixery-registry ServiceAccount/r-nixery-registry " +
		"Secret/r-nixery-registry-config Secret/r-nixery-registry-http ConfigMap/r-nixery-registry-nix " +
		"Service/r-nixery-registry Service/r-nixery-registry-headless StatefulSet/r-nixery-registry " +
		"Ingress/r-nixery-registry ServiceMonitor/r-nixery-registry",
	"gcs": "NetworkPolicy/r-nixery-registry PodDisruptionBudget/r-nixery-registry ServiceAccount/r-nixery-registry " +
		"Secret/r-nixery-registry-config Secret/r-nixery-registry-http " +
		"Service/r-nixery-registry Service/r-nixery-registry-headless StatefulSet/r-nixery-registry " +
		"HTTPRoute/r-nixery-registry PodMonitor/r-nixery-registry",
	"storeless": "NetworkPolicy/r-nixery-registry ServiceAccount/r-nixery-registry " +
		"Secret/r-nixery-registry-config Secret/r-nixery-registry-http PersistentVolumeClaim/r-nixery-registry-images " +
		"Service/r-nixery-registry Service/r-nixery-registry-headless StatefulSet/r-nixery-registry",
	"readonly": "Secret/r-nixery-registry-config ConfigMap/r-nixery-registry-nix " +
		"Service/r-nixery-registry Service/r-nixery-registry-headless StatefulSet/r-nixery-registry " +
		"CronJob/r-nixery-registry-garbage-collect",
	"everything": "NetworkPolicy/r-registry PodDisruptionBudget/r-registry ServiceAccount/r-registry " +
		"Secret/r-registry-config ConfigMap/r-registry-nix ConfigMap/r-more ConfigMap/r-registry-text " +
		"ConfigMap/r-registry-dashboard PersistentVolumeClaim/r-registry-images " +
		"Service/r-registry Service/r-registry-headless StatefulSet/r-registry " +
		"CronJob/r-registry-prune CronJob/r-registry-collect Ingress/r-registry HTTPRoute/r-registry " +
		"PrometheusRule/r-registry ServiceMonitor/r-registry",
}

// TestChart renders each of ../chart/ci, and checks each object, and the configuration by the
// registry itself.
func TestChart(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(chartDir, "ci", "*.yaml"))
	if err != nil || len(files) != len(cases) {
		t.Fatalf("there are %d files of values and %d cases: %v", len(files), len(cases), err)
	}
	check := newChecker(t)
	program := filepath.Join(t.TempDir(), "registry")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/registry")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the registry: %v\n%s", err, out)
	}
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			made := mustRender(t, valuesOf(t, name))
			var kinds []string
			for _, text := range made.objects {
				var object metav1.PartialObjectMetadata
				if err := yaml.Unmarshal([]byte(text), &object); err != nil {
					t.Fatal(err)
				}
				kinds = append(kinds, object.Kind+"/"+object.Name)
			}
			if got := strings.Join(kinds, " "); got != want {
				t.Errorf("it makes\n%s, want\n%s", got, want)
			}
			for _, text := range append(made.objects, made.tests...) {
				if err := check.check(text); err != nil {
					t.Errorf("%v\n%s", err, text)
				}
			}
			if len(made.tests) != 1 {
				t.Errorf("helm test has %d pods, want 1", len(made.tests))
			}
			if !strings.Contains(made.notes, "docker pull ") {
				t.Errorf("the notes do not say how to pull: %s", made.notes)
			}
			for _, line := range strings.Split(strings.Join(made.objects, "\n"), "\n") {
				if strings.TrimRight(line, " ") != line {
					t.Errorf("a line ends with blanks: %q", line)
				}
			}
			checkConfiguration(t, program, made)
		})
	}
}

// checkConfiguration has the registry check the configuration, with the variables of its container.
// Secrets that are mounted are files of the test's. It finds no Nix, and nothing on the network, so
// that it checks the file alone.
func checkConfiguration(t *testing.T, program string, made rendering) {
	t.Helper()
	var pod corev1.PodSpec
	var text string
	for _, object := range made.objects {
		var secret corev1.Secret
		var set struct {
			Spec struct{ Template corev1.PodTemplateSpec }
		}
		switch at(t, parse(t, object), "kind") {
		case "Secret":
			if err := yaml.Unmarshal([]byte(object), &secret); err != nil {
				t.Fatal(err)
			}
			text += secret.StringData["config.yml"]
		case "StatefulSet":
			if err := yaml.Unmarshal([]byte(object), &set); err != nil {
				t.Fatal(err)
			}
			pod = set.Spec.Template.Spec
		}
	}
	dir := t.TempDir()
	secretFiles(t, dir)
	file := filepath.Join(dir, "config.yml")
	text = strings.ReplaceAll(text, "/etc/nixery-registry", dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, append(pod.Containers[0].Args[:1:1], "--check", file)...)
	command.Env = []string{
		"PATH=" + dir, "HOME=" + dir, "CACHE_DIRECTORY=" + dir, "HTTPS_PROXY=http://127.0.0.1:1",
		"GOOGLE_APPLICATION_CREDENTIALS=" + filepath.Join(dir, "google.json"),
	}
	for _, variable := range pod.Containers[0].Env {
		if strings.HasPrefix(variable.Name, "REGISTRY_") {
			command.Env = append(command.Env, variable.Name+"=some-secret")
		}
	}
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("the registry does not take its configuration: %v\n%s\n%s", err, out, text)
	} else if strings.Contains(string(out), "Ignoring unrecognized environment variable") {
		t.Errorf("the registry does not know a variable:\n%s", out)
	}
}

// secretFiles writes what the values mount: users, a certificate, and Google's credentials.
func secretFiles(t *testing.T, dir string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"images.example.org"}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	google, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "a@example.org", "private_key": string(encoded),
		"token_uri": "http://127.0.0.1:1/",
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"tls/tls.crt":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		"tls/tls.key":    encoded,
		"users/htpasswd": []byte("a:$2y$05$0ygcT8BDRQW4s.bbDDYVbuuRjK6nRxP7xUdIbHcBKtxw3wZXqrhYu\n"),
		"google.json":    google,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManifest compares deploy/kubernetes.yaml with the chart, rendered with the least of values.
func TestManifest(t *testing.T) {
	made, err := renderAs(t, "nixery-registry", valuesOf(t, "minimal"))
	if err != nil {
		t.Fatal(err)
	}
	text := "# The chart in deploy/chart, rendered with its ci/minimal.yaml by `make manifests`: change it there.\n" +
		"# docs/install/kubernetes.md says what to change, and what else the chart can make.\n" +
		strings.Join(made.objects, "---\n")
	sameAs(t, "../kubernetes.yaml", []byte(text))
}

// TestVersion compares the version that the chart installs with the registry's own.
func TestVersion(t *testing.T) {
	loaded, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	version, err := os.ReadFile("../../cmd/registry/VERSION")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(version)); loaded.Metadata.AppVersion != want {
		t.Errorf("the chart installs %s, want %s: raise appVersion, and then `make manifests`",
			loaded.Metadata.AppVersion, want)
	}
}

// TestHTTPSecretIsKept renders the chart where the Secret is there, and where it is not.
func TestHTTPSecretIsKept(t *testing.T) {
	values := valuesOf(t, "storeless")
	secret := func(there ...*corev1.Secret) any {
		t.Helper()
		made, err := render(t, values, there...)
		if err != nil {
			t.Fatal(err)
		}
		return at(t, made.object(t, "Secret", "r-nixery-registry-http").Object, "data", "secret")
	}
	there := &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "r-nixery-registry-http"},
		Data:       map[string][]byte{"secret": []byte("of before")},
	}
	if got := secret(there); got != "b2YgYmVmb3Jl" {
		t.Errorf("the Secret is %v, want that of before", got)
	}
	if first, second := secret(), secret(); first == second || len(fmt.Sprint(first)) < 32 {
		t.Errorf("two installations have the secrets %v and %v", first, second)
	}
}
