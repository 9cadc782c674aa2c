package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// ciScripts are what runners and editors do in an image, as far as they ask something of it
// (docs/ci.md).
var ciScripts = []struct {
	name  string
	run   []string // options of docker run and, after IMAGE, its command
	stdin string
	want  string // a regular expression for what it writes
}{
	{
		name: "gitlab", run: []string{"IMAGE", "sh", "-c", gitlabDetects}, stdin: gitlabJob,
		want: `(?s)^section_start:\d+.*\n2\.0\njob done$`,
	},
	{
		name: "bitbucket", run: []string{"--entrypoint", "/bin/sh", "IMAGE", "-x"},
		stdin: "mkfifo /tmp/pipe\ncat /tmp/pipe &\necho through > /tmp/pipe\nwait\nfind /bin -name bash\n",
		want:  `^through\n/bin/bash$`,
	},
	{
		// ^ID is what GitHub's runner reads to choose between its node and that for Alpine.
		name: "github", run: []string{"IMAGE", "sh", "-c", "cat /etc/*release | grep ^ID; which tail tar gzip"},
		want: `^ID=nix\n\S*/bin/tail\n\S*/bin/tar\n\S*/bin/gzip$`,
	},
	{
		name: "an editor's check", run: []string{"IMAGE", "sh"}, stdin: editorChecks,
		want: `^libstdc\+\+ 3\.4\.\d+, libc 2\.\d+$`,
	},
	{
		name: "nobody's, where nothing can be written",
		run:  []string{"--user", "65534", "--read-only", "--tmpfs", "/tmp", "--env", "HOME=/tmp", "IMAGE", "sh"},
		stdin: `set -e
cd /tmp && git init -q x && cd x && echo text > f && git add f
git -c user.name=a -c user.email=a@example.org commit -qm message && git log --format=%s
ps -o comm= -p 1 | sed s/^ba// | awk '{ print $1 }'
find . -maxdepth 1 -name f | xargs grep text
`,
		want: `^message\nsh\ntext$`,
	},
}

// gitlabDetects is how GitLab's runner looks for a shell, and gitlabJob is such a script as it hands
// to one.
const (
	gitlabDetects = `if [ -x /usr/local/bin/bash ]; then exec /usr/local/bin/bash
elif [ -x /bin/bash ]; then exec /bin/bash
elif [ -x /bin/sh ]; then exec /bin/sh
else echo shell not found; exit 1; fi`
	gitlabJob = `#!/usr/bin/env bash
trap exit 1 TERM
if set -o | grep pipefail > /dev/null; then set -o pipefail; fi; set -o errexit
set +o noclobber
: | eval $'mkdir -p "/builds/tmp" && cd /builds\nprintf \'%b\\n\' "section_start:$(date +%s):step\\r"
find "/builds" -name "*.lock" -type f -exec rm -f {} +\nrm -r -f "/builds/tmp"
current="$(git version | cut -d " " -f 3)"
printf "%s\\n%s" 2.0 "$current" | sort --version-sort | head -n1\necho job done\n'
exit 0
`
	// editorChecks looks for libraries where VS Code does, and reads their versions as it does.
	editorChecks = `set -e
[ -x /lib64/ld-linux-x86-64.so.2 ]
[ ! -e /sbin/ldconfig ]
cxx=$(grep -ao 'GLIBCXX_[0-9]*\.[0-9]*\.[0-9]*' "$(readlink -f /usr/lib/libstdc++.so.6)" | sort -V | tail -1 | sed s/GLIBCXX_//)
libc=$(cat "$(readlink -f /usr/lib/libc.so.6)" | sed -n 's/.*release version \([0-9]\+\.[0-9]\+\).*/\1/p')
echo "libstdc++ $cxx, libc $libc"
`
)

// TestCI runs what runners run, in an image of ci.
func TestCI(t *testing.T) {
	t.Parallel()
	docker := Engines[0]
	r := StartRegistry(t)
	ref := r.Ref("ci")
	docker.Pull(t, ref)
	for _, test := range ciScripts {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"run", "--rm", "--interactive", "--network", "none"}
			for _, arg := range test.run {
				args = append(args, strings.Replace(arg, "IMAGE", ref, 1))
			}
			input := filepath.Join(Dir(t), "stdin")
			Write(t, input, test.stdin)
			got := Exec(
				t, "sh", append([]string{"-c", `input=$1; shift; exec "$@" < "$input"`, "sh", input, docker.Name}, args...)...,
			)
			if !regexp.MustCompile(test.want).MatchString(got) {
				t.Errorf("it wrote %q, want %q", got, test.want)
			}
		})
	}
	// What keeps a container for later commands runs until it is stopped.
	for _, keeps := range [][]string{{"--entrypoint", "tail", ref, "-f", "/dev/null"}, {ref, "sleep", "infinity"}} {
		container := docker.Exec(t, append([]string{"run", "--detach", "--rm", "--network", "none"}, keeps...)...)
		got := docker.Exec(t, "exec", container, "bash", "-c", "ps -o comm= -p 1; git --version | cut -d ' ' -f 1")
		if !regexp.MustCompile(`^(tail|sleep)\ngit$`).MatchString(got) {
			t.Errorf("in a container of %q: %q", keeps, got)
		}
		docker.Exec(t, "kill", container)
	}
}

// TestForeignProgram runs a program as Debian has it, which needs libstdc++, beside one of Nix.
func TestForeignProgram(t *testing.T) {
	t.Parallel()
	docker := Engines[0]
	debs, err := filepath.Glob(filepath.Join(DemoPackages(t), "pool", "7zip_*_"+runtime.GOARCH+".deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("7zip in the demo set: %q, %v", debs, err)
	}
	dir := Dir(t)
	Exec(t, "dpkg-deb", "--extract", debs[0], dir)
	for _, test := range []struct {
		name, set string
		// environment is a regular expression for the variables of loaders in the container.
		environment string
	}{
		{name: "with the loader of glibc", set: DemoPackages(t), environment: `^$`},
		{
			name: "with nix-ld", set: nixLDPackages(t),
			environment: `^NIX_LD=/nix/store/\w+-glibc-\S+/lib/ld-linux-\S+\nNIX_LD_LIBRARY_PATH=/lib$`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := StartRegistry(t, "nix.packages.path="+test.set)
			ref := r.Ref("ci")
			docker.Pull(t, ref)
			run := func(command string) string {
				volume := filepath.Join(dir, "usr", "bin") + ":/foreign:ro"
				return docker.Run(t, "--network", "none", "--volume", volume, ref, "sh", "-c", command)
			}
			got := run(`cd /tmp && echo text > a && /foreign/7zz a b.7z a >&2 && rm a && /foreign/7zz x b.7z >&2 && cat a`)
			if got != "text" {
				t.Errorf("the program unpacked %q", got)
			}
			if got := run("git --version"); !strings.HasPrefix(got, "git version") {
				t.Errorf("git wrote %q", got)
			}
			got = run("env | grep LD | sort || true")
			if !regexp.MustCompile(test.environment).MatchString(got) {
				t.Errorf("the environment has %q, want %s", got, test.environment)
			}
		})
	}
}

// nixLDPackages is the demo set with the C library laid out as in nixpkgs, where the loader searches
// its own store path alone, and a stand-in for nix-ld.
func nixLDPackages(t *testing.T) string {
	t.Helper()
	dir := CopyDemoPackages(t)
	if err := os.Rename(filepath.Join(dir, "default.nix"), filepath.Join(dir, "demo.nix")); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(dir, "default.nix"), Read(t, filepath.Join("testdata", "nix-ld", "default.nix")))
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "nix-ld"), "./testdata/nix-ld")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the stand-in for nix-ld: %v\n%s", err, out)
	}
	return dir
}
