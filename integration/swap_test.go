package integration

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var listeningAnyhow = regexp.MustCompile(`msg="listening on (127\.0\.0\.1:\d+)(?:, tls)?"`)

// stockRegistry builds the program that this one takes the place of, of the version in go.mod.
func stockRegistry(t *testing.T) string {
	t.Helper()
	Needs(t, "go")
	program := filepath.Join(Dir(t), "stock")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program,
		"github.com/distribution/distribution/v3/cmd/registry")
	build.Dir = shared.root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the stock registry: %v\n%s", err, out)
	}
	return program
}

// TestSwap swaps the stock registry's binary for this one, on the same configuration and storage,
// adds images of packages, and swaps back. Everything that was pushed is there all along, and the
// stock registry serves what Nix built, too. The configurations are those of the stock registry's
// recipes.
func TestSwap(t *testing.T) {
	t.Parallel()
	Needs(t, "crane")
	stock := stockRegistry(t)
	for _, test := range []struct {
		name   string
		recipe func(t *testing.T) (settings, environment []string)
	}{
		{name: "as the image comes", recipe: func(*testing.T) (settings, environment []string) {
			return []string{
				`storage.cache={"blobdescriptor": "inmemory"}`, `storage.tag={"concurrencylimit": 8}`,
				`health={"storagedriver": {"enabled": true, "interval": "10s", "threshold": 3}}`,
			}, nil
		}},
		{name: "TLS, passwords and notifications", recipe: secured},
		{name: "S3", recipe: func(t *testing.T) (settings, environment []string) {
			s := newS3(t)
			return []string{storageOn(t, "s3", map[string]any{
				"bucket": bucket, "region": "us-east-1", "regionendpoint": s.server.URL, "forcepathstyle": true,
				"secure": false, "accesskey": "key", "secretkey": "secret",
			})}, nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			settings, environment := test.recipe(t)
			r := NewRegistry(t, settings...)
			withPackages, err := os.ReadFile(r.ConfigFile())
			if err != nil {
				t.Fatal(err)
			}
			plain := withoutMiddleware(t, withPackages)
			crane := func(args ...string) string {
				t.Helper()
				return strings.TrimSpace(Exec(t, "env", append(append(environment, "crane"), args...)...))
			}
			digests := make(map[string]string)
			push := func(name, content string) {
				t.Helper()
				layer := filepath.Join(Dir(t), "layer.tar")
				Exec(t, "tar", "--create", "--file", layer, "--directory", fileIn(t, content), ".")
				crane("append", "--oci-empty-base", "--new_layer", layer, "--new_tag", r.Ref(name))
				digests[name] = crane("digest", r.Ref(name))
			}
			allThere := func(when string) {
				t.Helper()
				for name, want := range digests {
					if got := crane("digest", r.Ref(name)); got != want {
						t.Errorf("%s, %s is %s, want %s", when, name, got, want)
					}
					crane("validate", "--remote", r.Ref(name))
				}
			}
			start := func(program string, config []byte, environment ...string) {
				t.Helper()
				r.Stop()
				Write(t, r.ConfigFile(), string(config))
				r.Program = program
				startWith(t, r, listeningAnyhow, environment, "serve", r.ConfigFile())
			}

			start(stock, plain)
			push("team/app:v1", "one")
			push("hello:own", "somebody's own, by the name of a package")

			start("", plain, "PATH=/nonexistent") // it needs no Nix
			allThere("with this registry and without packages")
			push("team/app:v2", "two")
			unbuilt := append(environment, "crane", "digest", r.Ref("hello"))
			if _, _, err := TryExec(t.Context(), "env", unbuilt...); err == nil {
				t.Error("without the stanza, an image was built")
			}

			start("", withPackages)
			allThere("with packages")
			digests["hello:latest"] = crane("digest", r.Ref("hello:latest"))
			push("team/app:v3", "three")

			start(stock, plain)
			allThere("with the stock registry again")
			push("team/app:v1", "one, pushed again")
			push("hello:latest", "pushed over what Nix built")

			start("", withPackages)
			allThere("with packages again")
		})
	}
}

// secured is the configuration of the stock registry's recipes with TLS and passwords, and with a
// listener to notifications, and the environment of clients for it.
func secured(t *testing.T) (settings, environment []string) {
	t.Helper()
	dir := Dir(t)
	authority := newAuthority(t)
	authority.writePair(t, dir, "server", x509.ExtKeyUsageServerAuth)
	trusted, passwords := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "htpasswd")
	writeCertificate(t, trusted, authority.certificate)
	Write(t, passwords, "ada:$2a$04$1OgD4Lcq.FvBUR2VfstgKuYbRFxG5KmMh7tQez5PkpPOUlEJi2OYu\n") // of "lovelace"
	settings = []string{
		"http.tls=" + mustJSON(t, map[string]any{
			"certificate": filepath.Join(dir, "server.cert"), "key": filepath.Join(dir, "server.key"),
		}),
		"auth=" + mustJSON(t, map[string]any{"htpasswd": map[string]any{"realm": "test", "path": passwords}}),
		newListener(t).setting(t),
	}
	// The address is known once the registry listens. A helper has the login for any.
	helper := "#!/bin/sh\necho '{\"Username\": \"ada\", \"Secret\": \"lovelace\"}'\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(dir, "config.json"), `{"credsStore": "test"}`)
	return settings, []string{
		"SSL_CERT_FILE=" + trusted, "DOCKER_CONFIG=" + dir,
		"PATH=" + dir + ":" + strings.Join(append(shared.path(), os.Getenv("PATH")), ":"),
	}
}

// withoutMiddleware is a configuration without the stanza.
func withoutMiddleware(t *testing.T, config []byte) []byte {
	t.Helper()
	var keys map[string]any
	if err := json.Unmarshal(config, &keys); err != nil {
		t.Fatal(err)
	}
	delete(keys, "middleware")
	return []byte(mustJSON(t, keys))
}

// fileIn is a directory with one file.
func fileIn(t *testing.T, content string) string {
	t.Helper()
	dir := Dir(t)
	Write(t, filepath.Join(dir, "text"), content)
	return dir
}
