package deploytest

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A fakeRegistry has one image, NAME:TAG. The first request for it is sent round, as one that waits.
type fakeRegistry struct {
	manifest, config, layer string
	asked                   []string
}

func digestOf(content string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content))) }

func (f *fakeRegistry) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	user, password, _ := request.BasicAuth()
	f.asked = append(f.asked, request.URL.String())
	switch path := request.URL.Path; {
	case user != "puller" || password != `a"b\c`:
		http.Error(answer, "who is there?", http.StatusUnauthorized)
	case path == "/v2/shell/git/manifests/v1" && request.URL.RawQuery == "":
		answer.Header().Set("Location", "?hold=1")
		answer.WriteHeader(http.StatusTemporaryRedirect)
	case path == "/v2/shell/git/manifests/v1":
		fmt.Fprintf(answer, `{"manifests": [{"digest": %q}, {"digest": "sha256:%064d"}]}`, digestOf(f.manifest), 0)
	case path == "/v2/shell/git/manifests/"+digestOf(f.manifest):
		fmt.Fprint(answer, f.manifest)
	case path == "/v2/shell/git/blobs/"+digestOf("config"):
		fmt.Fprint(answer, f.config)
	case path == "/v2/shell/git/blobs/"+digestOf("layer"):
		fmt.Fprint(answer, f.layer)
	default:
		http.NotFound(answer, request)
	}
}

// TestPull runs what `helm test` runs, as its pod does, against a registry that is whole, and others.
func TestPull(t *testing.T) {
	manifest := fmt.Sprintf("{\n \"config\": {\"digest\": %q},\n \"layers\": [{\"digest\": %q}],\n"+
		" \"annotations\": {\"x\": \"sha256:%064d\"}\n}", digestOf("config"), digestOf("layer"), 1)
	tests := []struct {
		name     string
		registry fakeRegistry
		image    string
		want     string
	}{
		{
			"a whole image", fakeRegistry{manifest: manifest, config: "config", layer: "layer"}, "shell/git:v1",
			"pulled, 2 blobs",
		},
		{
			"another layer", fakeRegistry{manifest: manifest, config: "config", layer: "other"}, "shell/git:v1",
			"the blob " + digestOf("layer") + " is another",
		},
		{"an image without layers", fakeRegistry{manifest: "{}"}, "shell/git:v1", "has no blobs"},
		{"no such image", fakeRegistry{manifest: manifest}, "shell/git", "shell/git: 404 page not found"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(&test.registry)
			defer server.Close()
			values := merged(valuesOf(t, "everything"), parse(t, "tests: {pull: "+test.image+"}"))
			pod := parse(t, mustRender(t, values).tests[0])
			container := []any{"spec", "containers", 0}
			script, _ := at(t, pod, append(container, "args", 0)...).(string)
			if got := at(t, pod, append(container, "env", 1, "value")...); got != test.image {
				t.Errorf("the pod pulls %v, want %s", got, test.image)
			}
			command := exec.CommandContext(t.Context(), "bash", "-c", script)
			command.Env = append(os.Environ(), "REGISTRY_URL="+server.URL, "IMAGE="+test.image, "USERNAME=puller",
				`PASSWORD=a"b\c`, "TMPDIR="+t.TempDir())
			out, err := command.CombinedOutput()
			if whole := strings.HasPrefix(test.want, "pulled"); (err == nil) != whole {
				t.Errorf("it ends with %v", err)
			}
			if !strings.Contains(string(out), test.want) {
				t.Errorf("it says %s, want %s; it asked for %v", out, test.want, test.registry.asked)
			}
		})
	}
}
