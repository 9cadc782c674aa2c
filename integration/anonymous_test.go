package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// startAnonymous starts a registry from which everybody may pull, with a user ada whose password is
// lovelace.
func startAnonymous(t *testing.T, build string, settings ...string) *Registry {
	t.Helper()
	passwords := filepath.Join(Dir(t), "htpasswd")
	Write(t, passwords, "ada:$2a$04$1OgD4Lcq.FvBUR2VfstgKuYbRFxG5KmMh7tQez5PkpPOUlEJi2OYu\n")
	return StartRegistry(
		t,
		append(
			[]string{
				"nix.packages.path=" + FreshPackages(t),
				"auth=" + mustJSON(t, map[string]any{"anonymouspull": map[string]any{
					"htpasswd": map[string]any{"realm": "test", "path": passwords}, "build": build,
				}}),
			},
			settings...)...)
}

// Clients that have logged in have images built. Others pull images that are there, or are served
// as the option build says.
func TestAnonymousPull(t *testing.T) {
	t.Parallel()
	const nobody, empty, ada, wrong = "", "Basic Og==", "Basic YWRhOmxvdmVsYWNl", "Basic YWRhOmJ5cm9u"
	const manifest = "/v2/quick/manifests/latest"
	type step struct {
		method, path, authorization string
		want                        int
	}
	for build, steps := range map[string][]step{
		"user": {
			{"GET", "/v2/sleeps.s0/tags/list", nobody, 404}, {"GET", "/v2/sleeps.s0/tags/list", ada, 200},
			{"GET", manifest, nobody, 401}, {"HEAD", manifest, empty, 401}, {"GET", manifest, wrong, 401},
			{"GET", manifest, ada, 200},
			{"GET", manifest, nobody, 200}, {"HEAD", manifest, empty, 200}, {"GET", manifest, wrong, 401},
			{"GET", "/v2/quick/tags/list", nobody, 200},
			{"GET", "/v2/", nobody, 401}, {"GET", "/v2/", empty, 401}, {"GET", "/v2/", wrong, 401}, {
				"GET", "/v2/", ada, 200,
			},
			{"GET", "/v2/_catalog", nobody, 401}, {"GET", "/v2/_catalog", ada, 200},
			{"POST", "/v2/private/app/blobs/uploads/", nobody, 401}, {
				"POST", "/v2/private/app/blobs/uploads/", ada, 202,
			},
			{
				"POST",
				"/v2/private/app/blobs/uploads/?from=quick&mount=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
				nobody, 401,
			},
			{"PUT", "/v2/quick/manifests/mine", nobody, 401}, {"DELETE", manifest, nobody, 401}, {
				"OPTIONS", manifest, nobody, 401,
			},
			{"GET", "/v2/token", wrong, 401}, {"POST", "/v2/token", ada, 405}, {
				"GET", manifest, "Bearer nonsense", 401,
			},
		},
		"any":  {{"GET", manifest, wrong, 401}, {"GET", manifest, nobody, 200}, {"DELETE", manifest, nobody, 401}},
		"none": {{"GET", manifest, nobody, 404}, {"GET", manifest, ada, 404}, {"GET", manifest, wrong, 401}},
	} {
		t.Run(build, func(t *testing.T) {
			t.Parallel()
			r := startAnonymous(t, build)
			ask := func(method, path, authorization string) (status int, challenge string, body map[string]any) {
				t.Helper()
				request, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.Addr+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Accept", v1.MediaTypeImageManifest)
				if authorization != "" {
					request.Header.Set("Authorization", authorization)
				}
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				_ = json.NewDecoder(response.Body).Decode(&body)
				return response.StatusCode, response.Header.Get("WWW-Authenticate"), body
			}
			check := func(s step, what string) {
				t.Helper()
				status, challenge, body := ask(s.method, s.path, s.authorization)
				if status != s.want {
					t.Errorf(
						"%s %s of %s is answered with %d %v, want %d", s.method, s.path, what, status, body,
						s.want,
					)
				}
				if s.want == http.StatusUnauthorized && !strings.HasPrefix(s.path, "/v2/token") &&
					!strings.HasPrefix(challenge, `Bearer realm="http://`+r.Addr+`/v2/token",`) {
					t.Errorf("%s %s of %s is challenged with %q", s.method, s.path, what, challenge)
				}
			}
			for _, s := range steps {
				check(s, s.authorization)
			}
			// The same by tokens, in the end, when all is there that is built.
			for _, who := range []string{nobody, ada} {
				status, _, body := ask("GET", "/v2/token?service=anonymouspull&scope=repository:quick:pull", who)
				token, ok := body["token"].(string)
				if !ok {
					t.Fatalf("there is no token: %d %v", status, body)
				}
				for _, s := range steps {
					if s.authorization == who && s.path != manifest && s.path != "/v2/token" {
						s.authorization = "Bearer " + token
						check(s, "a token of "+who)
					}
				}
			}
		})
	}
}

// Clients pull with a login and without.
func TestAnonymousClients(t *testing.T) {
	t.Parallel()
	r := startAnonymous(t, "user")
	host := t.TempDir()
	logins := map[string][2][]string{ // without and with a login
		"skopeo": {{"skopeo", "inspect", "--no-creds"}, {"skopeo", "inspect", "--creds=ada:lovelace"}},
		"podman": {{"podman", "pull", "-q"}, {"podman", "pull", "-q", "--creds=ada:lovelace"}},
		"crane": {
			{"env", "DOCKER_CONFIG=" + host, "crane", "digest"},
			{"env", "DOCKER_CONFIG=" + filepath.Join(host, "ada"), "crane", "digest"},
		},
		"docker": {
			{"docker", "--config=" + host, "pull", "-q"},
			{"docker", "--config=" + filepath.Join(host, "ada"), "pull", "-q"},
		},
	}
	if err := os.Mkdir(filepath.Join(host, "ada"), 0o700); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(host, "ada", "config.json"), `{"auths": {"`+r.Addr+`": {"auth": "YWRhOmxvdmVsYWNl"}}}`)
	for client, commands := range logins {
		t.Run(client, func(t *testing.T) {
			Needs(t, client)
			image := map[string]string{
				"skopeo": "quick", "podman": "reader", "crane": "sleeps.s1", "docker": "sleeps.s2",
			}[client]
			pull := func(logged int) (string, error) {
				args := commands[logged][1:]
				ref := r.Ref(image)
				switch client {
				case "skopeo":
					args, ref = append(args, "--tls-verify=false"), "docker://"+ref
				case "podman":
					args = append(args, "--tls-verify=false")
				case "crane":
					args = append(args, "--insecure")
				}
				_, stderr, err := TryExec(t.Context(), commands[logged][0], append(args, ref)...)
				return stderr, err
			}
			if stderr, err := pull(0); err == nil || !strings.Contains(strings.ToLower(stderr), "unauthorized") {
				t.Errorf("without a login, an image is built: %v %s", err, stderr)
			}
			if stderr, err := pull(1); err != nil {
				t.Errorf("with a login: %v %s", err, stderr)
			}
			if stderr, err := pull(0); err != nil {
				t.Errorf("without a login, when it is there: %v %s", err, stderr)
			}
		})
	}
}
