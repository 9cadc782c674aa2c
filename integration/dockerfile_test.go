package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.yaml.in/yaml/v2"
)

// baseSuite is the Debian of the Dockerfile's base.
const baseSuite = "trixie"

// The Dockerfile needs these of its base beside a bare Debian. debootstrap doesn't see that a
// package of nix-bin's depends on libdbi-perl.
const basePackages = "ca-certificates,curl,git,libdbi-perl,nix-bin,openssh-client,tini"

// standInGo replaces Go for the Dockerfile in the tests. It brings the program that the tests have
// built, if the build's context has everything that a build needs.
const standInGo = `#!/bin/sh
set -eu
case "$1" in
mod)
  test -e go.mod
  test -e go.sum
  ;;
build)
  while read -r file; do
    test -e "$file" || { echo "the context has no $file" >&2; exit 1; }
  done </go/sources
  while [ "$1" != -o ]; do shift; done
  test "$3" = ./cmd/registry
  cp /go/registry "$2"
  ;;
esac
`

// confined are the rights that deploy/kubernetes.yaml gives a container, and the places that it can
// write to.
var confined = []string{
	"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
	"--tmpfs", "/tmp:exec", "--volume", "/nix", "--volume", "/var/lib/registry",
	"--volume", "/var/cache/nixery-registry",
}

// TestDockerfile builds the Dockerfile's image on a Debian of the tests' own, without a network,
// and pulls from a container of it.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	Needs(t, "docker", "debootstrap", "skopeo", "nsenter")
	image := buildDockerfile(t)
	packages := FreshPackages(t)
	conf := filepath.Join(Dir(t), "nix.conf")
	Write(t, conf, "build-users-group =\nsandbox = false\nsubstituters =\n")
	docker := Engines[0]
	start := func(name string, args ...string) (pid string) {
		t.Helper()
		all := append(
			[]string{
				"--name", name, "--network", "none", "--health-interval", "1s",
				"--volume", conf + ":/etc/nix/nix.conf:ro",
			},
			confined...)
		all = append(all, args...)
		pid = docker.Detach(t, append(all, image)...)
		t.Cleanup(func() {
			if t.Failed() { // and its context has ended
				stdout, stderr, err := TryExec(context.Background(), "docker", "logs", name)
				t.Logf("%s wrote (%v):\n%s%s", name, err, stdout, stderr)
			}
		})
		Eventually(t, startTime*4, name+" is healthy", func() bool {
			return docker.Exec(t, "inspect", "--format", "{{.State.Health.Status}}", name) == "healthy"
		})
		return pid
	}
	pid := start(
		"open", "--env", "NIXERY_STORAGE_BACKEND=filesystem", "--env", "STORAGE_PATH=/var/lib/registry",
		"--env", "PORT=8080", "--env", "NIXERY_BUILD_LOCAL=true", "--env", "NIXERY_PKGS_PATH=/packages",
		"--volume", packages+":/packages:ro",
	)

	for _, line := range strings.Split(docker.Exec(t, "top", "open", "-eo", "pid,uid"), "\n")[1:] {
		if process := strings.Fields(line); process[1] != "1000" {
			t.Errorf("process %s is of user %s, want 1000", process[0], process[1])
		}
	}
	archive := filepath.Join(Dir(t), "quick.tar")
	Exec(t, "nsenter", "--target", pid, "--net", "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false",
		"docker://127.0.0.1:8080/quick", "docker-archive:"+archive+":quick:pulled")
	docker.Exec(t, "load", "--quiet", "--input", archive)
	if out := docker.Run(t, "--network", "none", "quick:pulled"); out != "hello" {
		t.Errorf("the image that was pulled prints %q, want hello", out)
	}

	var health []string
	if err := json.Unmarshal(
		[]byte(docker.Exec(t, "inspect", "--format", "{{json .Config.Healthcheck.Test}}", image)), &health,
	); err != nil {
		t.Fatal(err)
	}
	check := func(url string) error {
		_, _, err := TryExec(t.Context(), "docker", "exec", "--env", "HEALTH_URL="+url, "open", "sh", "-c", health[1])
		return err
	}
	if err := check("http://127.0.0.1:8080/v2/"); err != nil {
		t.Errorf("the health check fails: %v", err)
	}
	for _, url := range []string{"http://127.0.0.1:9/v2/", "http://127.0.0.1:8080/v2/nothing"} {
		if check(url) == nil {
			t.Errorf("the health check is content with %s", url)
		}
	}
	// One that asks who is there is healthy too.
	start(
		"closed", "--env", "NIXERY_PKGS_PATH=/packages", "--volume", packages+":/packages:ro", "--env",
		"REGISTRY_AUTH=silly", "--env", "REGISTRY_AUTH_SILLY_REALM=a", "--env",
		"REGISTRY_AUTH_SILLY_SERVICE=b",
	)

	// As README has it, with a channel: of a package set that wants as new a Nix as nixpkgs does.
	content, err := os.ReadFile(filepath.Join(packages, "default.nix"))
	if err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(packages, "packages.nix"), string(content))
	Write(
		t, filepath.Join(packages, "default.nix"),
		`if builtins.compareVersions builtins.nixVersion "2.18" < 0 then abort "too old" else import ./packages.nix`,
	)
	mirror := serveChannel(t, packages, strings.Repeat("a", 40))
	config := filepath.Join(Dir(t), "config.yml")
	addr := freeAddress(t)
	Write(t, config, fmt.Sprintf(`
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: "%[1]s"}
middleware: {repository: [{name: nix, options: {packages: {channel: nixos-26.05, channels: "%[2]s", archives: "%[2]s"}}}]}
`, addr, mirror.url))
	docker.Detach(
		t,
		slices.Concat(
			[]string{"--name", "channel", "--network", "host", "--volume", conf + ":/etc/nix/nix.conf:ro"},
			confined,
			[]string{
				"--volume", config + ":/etc/distribution/config.yml:ro",
				image,
			},
		)...)
	Eventually(t, startTime*4, "the registry with a channel listens", func() bool {
		_, _, err := TryExec(t.Context(), "curl", "--silent", "--fail", "http://"+addr+"/v2/")
		return err == nil
	})
	Exec(
		t, "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+addr+"/quick",
		"dir:"+filepath.Join(Dir(t), "pulled"),
	)
	docker.Exec(t, "stop", "--time", "60", "channel")

	checkSwappedImage(t, image)

	docker.Exec(t, "stop", "--time", "60", "open")
	if state := docker.Exec(
		t, "inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", "open",
	); state != "0 false" {
		t.Errorf("asked to stop, it ended with %q", state)
	}
	t.Logf("the image has %s bytes", docker.Exec(t, "inspect", "--format", "{{.Size}}", image))
}

// checkSwappedImage starts the image in the ways that start the stock registry's images.
func checkSwappedImage(t *testing.T, image string) {
	t.Helper()
	docker := Engines[0]
	storage, config := Dir(t), filepath.Join(Dir(t), "config.yml") // root's, as those images leave it
	Write(t, config, `
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: "127.0.0.1:7777"}
`)
	const old, now, complaint = "/etc/docker/registry/config.yml", "/etc/distribution/config.yml", "chown -R 1000:1000 "
	for _, test := range []struct {
		name     string
		options  []string
		args     []string
		listens  string
		complain bool
	}{
		{"nothing", nil, nil, "[::]:5000", true},
		{"variables", []string{"--env", "REGISTRY_HTTP_ADDR=127.0.0.1:7778"}, nil, "127.0.0.1:7778", true},
		{"file of version 2", []string{"--volume", config + ":" + old + ":ro"}, nil, "127.0.0.1:7777", true},
		{"file of version 3", []string{"--volume", config + ":" + now + ":ro"}, nil, "127.0.0.1:7777", true},
		{"file, named", []string{"--volume", config + ":" + old + ":ro"}, []string{old}, "127.0.0.1:7777", true},
		{"serve", []string{"--volume", config + ":" + old + ":ro"}, []string{"serve", old}, "127.0.0.1:7777", true},
		{
			"entry point", []string{"--volume", config + ":" + old + ":ro", "--entrypoint", "/entrypoint.sh"},
			[]string{old}, "127.0.0.1:7777", true,
		},
		{
			"program", []string{"--volume", config + ":" + old + ":ro", "--entrypoint", "/bin/registry"},
			[]string{"serve", old}, "127.0.0.1:7777", true,
		},
		{"root", []string{"--user", "0"}, nil, "[::]:5000", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := "swapped-" + strings.ReplaceAll(strings.ReplaceAll(test.name, " ", "-"), ",", "")
			own := []string{"--name", name, "--network", "none", "--volume", storage + ":/var/lib/registry"}
			docker.Detach(t, slices.Concat(own, test.options, []string{image}, test.args)...)
			var log string
			Eventually(t, startTime, "the registry listens on "+test.listens, func() bool {
				stdout, stderr, _ := TryExec(t.Context(), "docker", "logs", name)
				log = stdout + stderr
				return strings.Contains(log, "listening on "+test.listens)
			})
			if strings.Contains(log, complaint) != test.complain || strings.Count(log, "level=error") > 1 {
				t.Errorf("it says:\n%s", log)
			}
		})
	}
}

// freeAddress is one on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// buildDockerfile makes the image from base images of the tests' own, as none can be pulled, and
// returns its name.
func buildDockerfile(t *testing.T) string {
	t.Helper()
	base, err := shared.debianBase(t)
	if err != nil {
		t.Fatal(err)
	}
	Exec(t, "docker", "import", base, "test/base")
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := Dir(t)
	Write(
		t, filepath.Join(dir, "Dockerfile"),
		"FROM test/base\nCOPY . /go\nENV PATH=/go:/usr/sbin:/usr/bin:/sbin:/bin\n",
	)
	Write(t, filepath.Join(dir, "sources"), strings.Join(sources(t), "\n")+"\n")
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(standInGo), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(program, filepath.Join(dir, "registry")); err != nil {
		t.Fatal(err)
	}
	// The builder that every Docker has.
	build := func(args ...string) {
		t.Helper()
		Exec(t, "env", append([]string{"DOCKER_BUILDKIT=0", "docker", "build", "--network", "none"}, args...)...)
	}
	build("--tag", "test/go", dir)
	build("--build-arg", "BASE=test/base", "--build-arg", "GO=test/go", "--tag", "test/registry", shared.root)
	return "test/registry"
}

// debianBase is a file system of Debian with what the Dockerfile would install, for `docker
// import`. It is made where it stays for the next time.
func (s *suite) debianBase(t *testing.T) (string, error) {
	t.Helper()
	file := filepath.Join(s.root, "build", "debian-"+digest.FromString(baseSuite + basePackages).Encoded()[:12]+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	dir := Dir(t)
	mirrors := Exec(
		t, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian",
		"Component: main",
	)
	args := []string{"--variant=minbase", "--include=" + basePackages, baseSuite, filepath.Join(dir, "root")}
	for mirror := range strings.FieldsSeq(mirrors) {
		if !strings.Contains(mirror, "security") {
			args = append(args, mirror)
			break
		}
	}
	Exec(t, "debootstrap", args...)
	partial := filepath.Join(dir, "tar")
	Exec(
		t, "tar", "--create", "--file", partial, "--directory", filepath.Join(dir, "root"),
		"--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./var/cache/apt/*",
		"--exclude=./var/lib/apt/lists/*", "--exclude=./usr/share/doc/*", "--exclude=./usr/share/man/*",
		"--exclude=./usr/share/locale/*", ".",
	)
	Exec(t, "mv", partial, file+".new") // perhaps to another file system
	return file, os.Rename(file+".new", file)
}

// sources are the files of this repository that the registry is built from, from the checkout on.
func sources(t *testing.T) []string {
	t.Helper()
	const format = `{{if and .Module .Module.Main}}{{$dir := .Dir}}{{range .GoFiles}}{{$dir}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$dir}}/{{.}}
{{end}}{{end}}`
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, "./cmd/registry")
	list.Dir = shared.root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"go.mod", "go.sum"}
	for file := range strings.FieldsSeq(string(out)) {
		rel, err := filepath.Rel(shared.root, file)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, rel)
	}
	return files
}

// recorder replaces nixpkgs: it has what default.nix asks for, and keeps its arguments.
const recorder = `
let
  inherit (builtins) concatStringsSep listToAttrs map stringLength substring;
  packages = [ "bashInteractive" "cacert" "coreutils" "gitMinimal" "nix" "openssh" "tini" ];
  pkgs = listToAttrs (map (name: { inherit name; value.outPath = "/nixpkgs/${name}"; }) packages) // {
    lib = {
      makeBinPath = paths: concatStringsSep ":" (map (path: "${path}/bin") paths);
      removePrefix = prefix: text: substring (stringLength prefix) (-1) text; # of a text that begins so
    };
    buildGoModule = arguments: { inherit arguments; outPath = "/nixpkgs/${arguments.pname}"; };
    dockerTools.buildLayeredImage = arguments: { inherit arguments; };
  };
  made = import %s { inherit pkgs; };
in
{
  names = builtins.attrNames made;
  package = made.nixery-registry.arguments;
  image = made.nixery-image.arguments;
}
`

// TestDefaultNix evaluates default.nix without nixpkgs, and checks what it would have built.
func TestDefaultNix(t *testing.T) {
	t.Parallel()
	Needs(t, "nix-instantiate", "nix", "go")
	store := filepath.Join(Dir(t), "store")
	var made struct {
		Names   []string
		Package struct {
			Pname, Src, VendorHash string
			SubPackages            []string
		}
		Image struct {
			Contents     []string
			UID, GID     int
			IncludeNixDB bool
			Config       struct {
				Entrypoint, Cmd, Env []string
				User                 string
			}
		}
	}
	out := Exec(t, "nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "--store", store,
		"--expr", fmt.Sprintf(recorder, filepath.Join(shared.root, "default.nix")))
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	got, want := fmt.Sprint(made.Names, made.Package.SubPackages), "[nixery-image nixery-registry] [cmd/registry]"
	if got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	image := made.Image
	if got, want := fmt.Sprintln(
		image.UID, image.GID, image.IncludeNixDB, image.Config.User, image.Config.Entrypoint,
		image.Config.Cmd,
	),
		"1000 1000 true 1000:1000 [/nixpkgs/tini/bin/tini -- /nixpkgs/nixery-registry/bin/registry] [serve]\n"; got != want {
		t.Errorf("the image is %s, want %s", got, want)
	}
	// What the Dockerfile says, too.
	dockerfile, err := os.ReadFile(filepath.Join(shared.root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range image.Config.Env {
		name, _, _ := strings.Cut(variable, "=")
		if name != "PATH" && !strings.HasSuffix(name, "SSL_CERT_FILE") &&
			!strings.Contains(string(dockerfile), variable) {
			t.Errorf("the Dockerfile has no %s", variable)
		}
	}

	source := filepath.Join(store, made.Package.Src)
	for _, file := range sources(t) {
		if _, err := os.Stat(filepath.Join(source, file)); err != nil {
			t.Errorf("the source lacks %s: %v", file, err)
		}
	}
	for _, file := range []string{"build", "docs", "integration", ".git"} {
		if _, err := os.Stat(filepath.Join(source, file)); err == nil {
			t.Errorf("the source has %s, whose edits would build the registry again", file)
		}
	}

	// As buildGoModule does it.
	copied := filepath.Join(Dir(t), "source")
	Exec(t, "cp", "--recursive", "--no-preserve=mode", source, copied)
	vendor := exec.CommandContext(t.Context(), "go", "mod", "vendor")
	vendor.Dir = copied
	if out, err := vendor.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	hash := Exec(
		t, "nix", "--extra-experimental-features", "nix-command", "hash", "path",
		filepath.Join(copied, "vendor"),
	)
	if made.Package.VendorHash != hash {
		t.Errorf("default.nix has vendorHash = %q; for go.mod as it is, it must be %q", made.Package.VendorHash, hash)
	}
}

// TestSystemdUnit has systemd itself look at the unit.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	Needs(t, "systemd-analyze")
	unit, err := os.ReadFile(filepath.Join(shared.root, "deploy", "nixery-registry.service"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(Dir(t), "nixery-registry.service")
	Write(t, file, strings.ReplaceAll(string(unit), "/usr/local/bin/registry", program))
	stdout, stderr, err := TryExec(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", file)
	if err != nil || strings.Contains(stderr, filepath.Base(file)) {
		t.Errorf("systemd does not like the unit: %v\n%s%s", err, stdout, stderr)
	}
	// The threshold is in tenths: what it may do to the machine is 2.4 of 10 at most.
	stdout, stderr, err = TryExec(
		t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold=24", "--no-pager", file)
	if err != nil {
		t.Errorf("the unit has more rights than it had: %v\n%s%s", err, stdout, stderr)
	}
}

// TestKubernetesManifest compares the manifest with the image, and with how TestDockerfile runs it.
func TestKubernetesManifest(t *testing.T) {
	t.Parallel()
	manifest, err := os.Open(filepath.Join(shared.root, "deploy", "kubernetes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.Close()
	type container struct {
		Args            []string
		SecurityContext struct {
			AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct{ Drop []string }
		} `yaml:"securityContext"`
		VolumeMounts []struct {
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	var kinds []string
	var configuration string
	var registry container
	for documents := yaml.NewDecoder(manifest); ; {
		var document struct {
			Kind       string
			StringData map[string]string `yaml:"stringData"`
			Spec       struct {
				Template struct {
					Spec struct{ Containers []container }
				}
			}
		}
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, document.Kind)
		switch document.Kind {
		case "StatefulSet":
			registry = document.Spec.Template.Spec.Containers[0]
		case "Secret":
			configuration = document.StringData["config.yml"]
		}
	}
	const want = "NetworkPolicy ServiceAccount Secret ConfigMap PersistentVolumeClaim Service Service StatefulSet"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("it has %s, want %s", got, want)
	}

	rights := registry.SecurityContext
	if !rights.ReadOnlyRootFilesystem || rights.AllowPrivilegeEscalation == nil || *rights.AllowPrivilegeEscalation ||
		!slices.Equal(rights.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("it gives other rights than the test: %+v", rights)
	}
	// Files of the configuration are mounted beside those places.
	mounts := []string{"/etc/distribution", "/etc/nix"}
	for _, argument := range confined {
		if path, _, _ := strings.Cut(argument, ":"); filepath.IsAbs(path) {
			mounts = append(mounts, path)
		}
	}
	var got []string
	for _, mount := range registry.VolumeMounts {
		got = append(got, mount.MountPath)
	}
	slices.Sort(mounts)
	slices.Sort(got)
	if !slices.Equal(got, mounts) {
		t.Errorf("it mounts %s, the test %s", got, mounts)
	}

	// The registry takes its configuration, at the place that its arguments name.
	if !slices.Equal(registry.Args, []string{"serve", "/etc/distribution/config.yml"}) {
		t.Errorf("it starts with %q", registry.Args)
	}
	file := filepath.Join(Dir(t), "config.yml")
	Write(t, file, configuration)
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	Exec(t, program, "serve", "--check", file)
}
