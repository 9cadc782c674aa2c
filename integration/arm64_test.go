package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// armPackages is a package set of real Debian packages for amd64 and arm64, far smaller than the
// demo set, and the same set as it is for arm64, which is what Closure wants. It is made where it
// stays for the next time.
func armPackages(t *testing.T) (set, forArm string) {
	t.Helper()
	Needs(t, "nix-instantiate", "nix-daemon", "apt-get", "dpkg-deb")
	set = filepath.Join(shared.root, "build", "demo-arm64")
	Exec(t, filepath.Join(shared.root, "examples", "debian", "make.sh"), set, "amd64", "arm64", "--",
		"hello", "git", "htop", "coreutils", "ca-certificates", "netbase")
	forArm = filepath.Join(Dir(t), "arm64.nix")
	Write(t, forArm, fmt.Sprintf("{ ... }: import %s { system = \"aarch64-linux\"; }\n", set))
	return set, forArm
}

// emulation makes the kernel start programs for arm64 by emulation. It is mounted where nobody else
// looks. The kernel forgets it when the shell ends, and the shell ends when its stdin does: so
// nothing is left, however the tests end. The kernel opens the emulator at once, and so has it in
// containers too.
const emulation = `
mount -t binfmt_misc none "$1"
echo ":$2:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00` +
	`:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:$3:F" >"$1/register"
echo ready
read -r end || true
echo -1 >"$1/$2"
`

// emulateArm64 has the host run programs for arm64 until the test ends.
func emulateArm64(t *testing.T) {
	t.Helper()
	if runtime.GOARCH == "arm64" {
		return
	}
	emulator := needs.Tool(t, "qemu-aarch64-static")
	shell := exec.Command(
		"sh", "-euc", emulation, "sh", Dir(t), fmt.Sprintf("registry-tests-%d", os.Getpid()), emulator,
	)
	shell.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var stderr strings.Builder
	shell.Stderr = &stderr
	stdin, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := shell.Wait(); err != nil {
			t.Errorf("ending the emulation of arm64: %v\n%s", err, stderr.String())
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the kernel does not emulate arm64: %q, %v", line, err)
	}
}

// TestArm64 builds images of real packages for another platform than the host's, checks them and
// runs them.
func TestArm64(t *testing.T) {
	t.Parallel()
	set, forArm := armPackages(t)
	emulateArm64(t)
	r := StartRegistry(
		t, "nix.packages.path="+set, `nix.platforms=["linux/amd64", "linux/arm64"]`,
		`nix.shell=["bashInteractive", "coreutils"]`, "nix.build.hold=5m",
	) // this client does not come back

	t.Run("index", func(t *testing.T) {
		status, _, body, err := r.Get(t.Context(), "/v2/git/htop/manifests/latest", v1.MediaTypeImageIndex)
		var index v1.Index
		if err == nil {
			err = json.Unmarshal(body, &index)
		}
		if err != nil || status != http.StatusOK || len(index.Manifests) != 2 {
			t.Fatalf("the index: status %d, %v: %s", status, err, body)
		}
		for i, want := range []struct{ arch, set string }{{"amd64", set}, {"arm64", forArm}} {
			packages := append([]string{"git", "htop"}, included...)
			config := r.Verify(
				t, r.PullTag(t, "git/htop", index.Manifests[i].Digest.String()),
				Closure(t, want.set, packages...),
			)
			if got := index.Manifests[i].Platform.Architecture; got != want.arch || config.Architecture != want.arch {
				t.Errorf(
					"the image for %s is for %s in the index, and for %s by its config", want.arch, got,
					config.Architecture,
				)
			}
		}
		child := r.PullTag(t, "git/htop", index.Manifests[1].Digest.String())
		if alone := r.Pull(t, "arm64/git/htop"); !slices.EqualFunc(alone.Layers, child.Layers, sameBlob) {
			t.Error("arm64/git/htop has other layers than git/htop for arm64")
		}
	})

	// A tag is of one platform at a time where it is pulled to, so each engine pulls each image
	// just before it runs it.
	tests := []struct {
		image    string
		platform []string
		command  []string // empty: the image's own
		want     string
	}{
		{image: "hello", platform: []string{"--platform", "linux/arm64"}, want: "Hello, world!"},
		{image: "arm64/hello", want: "Hello, world!"},
		{image: "arm64/1demo", want: "one"},
		{
			image: "shell/git", platform: []string{"--platform", "linux/arm64"}, want: "aarch64\ncontent",
			command: []string{"bash", "-ec", `
				uname -m
				git init -q /tmp/a && cd /tmp/a && echo content > file && git add file
				git -c user.name=a -c user.email=a@example.org commit -qm message
				git clone -q /tmp/a /tmp/b && cat /tmp/b/file`},
		},
	}
	for _, engine := range Engines {
		t.Run(engine.Name, func(t *testing.T) {
			for _, test := range tests {
				t.Run(test.image, func(t *testing.T) {
					ref := r.Ref(test.image)
					engine.Pull(t, ref, test.platform...)
					args := slices.Concat([]string{"--network", "none"}, test.platform, []string{ref}, test.command)
					if got := engine.Run(t, args...); got != test.want {
						t.Errorf("it wrote %q, want %q", got, test.want)
					}
				})
			}
		})
	}
}
