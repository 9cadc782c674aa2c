package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

// tries is a package whose builder tries to read the registry's secrets and files, and prints what
// it got.
const tries = `{ system, ... }: { tries = derivation { name = "tries"; inherit system; b = "${./bin}/busybox"; builder = "${./bin}/busybox"; salt = ./salt; args = [ "sh" "-c" ''
  found() { echo "FOUND $*"; }
  for process in /proc/[0-9]*; do
    $b grep -q CANARY $process/environ 2>/dev/null && found environ of $process
    $b grep -q registry $process/comm 2>/dev/null && found $process
  done
  $b cat /canary 2>/dev/null
  for directory in /var/lib/registry /var/cache/nixery-registry /packages; do
    (echo x > $directory/pwn) 2>/dev/null && found a way to write $directory
    $b ls -A $directory 2>/dev/null | $b grep -q . && found the files in $directory
  done
  while read -r key value rest; do $b test "$key" = Uid: && echo "runs as $value"; done </proc/self/status
  exit 3
'' ]; }; inherit (import ./fresh.nix { inherit system; }) quick; }`

// service is a service of a compose file, as far as deploy/compose.yaml has any.
type service struct {
	User           string
	Entrypoint     []string
	Environment    map[string]string
	CapDrop        []string `yaml:"cap_drop"`
	CapAdd         []string `yaml:"cap_add"`
	SecurityOpt    []string `yaml:"security_opt"`
	ReadOnly       bool     `yaml:"read_only"`
	Tmpfs, Volumes []string
}

// arguments are those of docker run that give a container what the service says, without its
// environment. Volumes get names that begin with prefix.
func (s service) arguments(prefix string) []string {
	args := []string{"--network", "none"}
	if s.User != "" {
		args = append(args, "--user", s.User)
	}
	for _, option := range []struct {
		name   string
		values []string
	}{
		{"--cap-drop", s.CapDrop}, {"--cap-add", s.CapAdd}, {"--security-opt", s.SecurityOpt}, {"--tmpfs", s.Tmpfs},
	} {
		for _, value := range option.values {
			args = append(args, option.name, value)
		}
	}
	for _, volume := range s.Volumes {
		args = append(args, "--volume", prefix+volume)
	}
	if s.ReadOnly {
		args = append(args, "--read-only")
	}
	if len(s.Entrypoint) > 0 {
		args = append(args, "--entrypoint", s.Entrypoint[0])
	}
	return args
}

// TestComposeFiles has Compose read the files of deploy/, also both together.
func TestComposeFiles(t *testing.T) {
	t.Parallel()
	Needs(t, "docker-compose")
	plain := filepath.Join(shared.root, "deploy", "compose.yaml")
	tls := filepath.Join(shared.root, "deploy", "compose.tls.yaml")
	if out := Exec(t, "docker-compose", "--file", plain, "config", "--services"); strings.Contains(out, "tls") {
		t.Errorf("compose.yaml has the services %q", out)
	}
	out := Exec(t, "env", "HOST=images.example.org", "docker-compose", "--file", plain, "--file", tls, "config")
	var made struct {
		Services map[string]struct{ Command []string }
	}
	if err := yaml.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	command := made.Services["tls"].Command
	if want := []string{
		"caddy", "reverse-proxy", "--from", "images.example.org", "--to", "registry:5000",
	}; !slices.Equal(command, want) || len(made.Services) != 4 {
		t.Errorf("with TLS, there are %d services, and Caddy is %q", len(made.Services), command)
	}
	if _, stderr, err := TryExec(
		t.Context(), "env", "--unset=HOST", "docker-compose", "--file", plain, "--file", tls, "config",
	); err == nil || !strings.Contains(stderr, "the name under which clients reach the registry") {
		t.Errorf("without HOST, Compose says %v: %s", err, stderr)
	}
}

// TestCompose runs the containers of deploy/compose.yaml. It builds an image, whose builder can't
// read anything of the registry's.
func TestCompose(t *testing.T) {
	t.Parallel()
	Needs(t, "docker", "debootstrap", "skopeo", "nsenter")
	text, err := os.ReadFile(filepath.Join(shared.root, "deploy", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Services map[string]service }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	image := buildDockerfile(t)
	packages := FreshPackages(t)
	Write(t, filepath.Join(packages, "fresh.nix"), Read(t, filepath.Join(packages, "default.nix")))
	Write(t, filepath.Join(packages, "default.nix"), tries)
	docker, prefix := Engines[0], fmt.Sprintf("compose%d-", os.Getpid())
	run := func(name string, args ...string) (pid string) {
		t.Helper()
		s := file.Services[name]
		args = slices.Concat([]string{"--name", prefix + name}, s.arguments(prefix), args)
		for key, value := range s.Environment {
			args = append(args, "--env", key+"="+value)
		}
		if len(s.Entrypoint) > 0 {
			return docker.Detach(t, append(append(args, image), s.Entrypoint[1:]...)...)
		}
		return docker.Detach(
			t, append(args, "--env", "NIXERY_CHANNEL=", "--env", "NIXERY_PKGS_PATH=/packages", image)...)
	}
	run("nix-store")
	if status := docker.Exec(t, "wait", prefix+"nix-store"); status != "0" {
		t.Fatalf("making the store ends with %s: %s", status, docker.Exec(t, "logs", prefix+"nix-store"))
	}
	conf := filepath.Join(Dir(t), "nix.conf")
	Write(t, conf, "build-users-group =\nsandbox = false\nsubstituters =\n")
	canary := filepath.Join(Dir(t), "canary")
	Write(t, canary, "FOUND the file of secrets\n")
	run("nix-daemon", "--volume", conf+":/etc/nix/nix.conf:ro")
	Eventually(t, startTime, "the daemon listens", func() bool {
		_, _, err := TryExec(
			t.Context(), "docker", "exec", prefix+"nix-daemon", "test", "-S",
			"/nix/var/nix/daemon-socket/socket",
		)
		return err == nil
	})
	pid := run(
		"registry", "--volume", packages+":/packages:ro", "--volume", canary+":/canary:ro", "--env",
		"AWS_SECRET_ACCESS_KEY=CANARY", "--volume", conf+":/etc/nix/nix.conf:ro",
	)
	in := func(args ...string) (stdout, stderr string, err error) {
		return TryExec(t.Context(), "nsenter", append([]string{"--target", pid, "--net"}, args...)...)
	}
	Eventually(t, startTime*4, "the registry listens", func() bool {
		_, _, err := in("curl", "--silent", "--fail", "http://127.0.0.1:5000/v2/")
		return err == nil
	})
	if _, stderr, err := in(
		"skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://127.0.0.1:5000/quick",
		"dir:"+filepath.Join(Dir(t), "pulled"),
	); err != nil {
		t.Errorf("what is built can't be pulled: %v: %s", err, stderr)
	}
	answer, stderr, err := in("curl", "--silent", "--location", "http://127.0.0.1:5000/v2/tries/manifests/latest")
	if err != nil || !strings.Contains(answer, "runs as 1001") || strings.Contains(answer, "FOUND") {
		t.Errorf("a builder says %q, %v %s", answer, err, stderr)
	}
	_, log, err := TryExec(t.Context(), "docker", "logs", prefix+"registry")
	if err != nil || !strings.Contains(log, "builds are not sandboxed, and run as user 1001") {
		t.Errorf("the log does not tell how builds run:\n%s", log)
	}
}
