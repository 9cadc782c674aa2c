package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// shared is set by TestMain and not changed by tests.
var shared *suite

// A suite holds what all tests share. Each part is made when the first test asks for it.
type suite struct {
	root string // of the checkout
	// dir has all that the tests write, but for what is kept in build/. Anyone can read it, as
	// evaluations are nobody's.
	dir string

	binary, demo, crane func() (string, error)
	docker              *dockerDaemon
}

func newSuite() (*suite, error) {
	root, err := filepath.Abs("..")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "registry-tests-")
	if err != nil {
		return nil, err
	}
	s := &suite{root: root, dir: dir}
	s.binary = sync.OnceValues(s.buildRegistry)
	s.demo = sync.OnceValues(s.makeDemo)
	s.crane = sync.OnceValues(s.installCrane)
	s.docker = newDockerDaemon(filepath.Join(dir, "docker"))
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	return s, s.configureEngines()
}

// close ends what the suite has started and removes what it has written.
func (s *suite) close() {
	// The order matters. A failure leaves the rest to be looked at.
	for _, step := range []func() error{
		s.docker.stop,
		func() error { return unmount(s.dir) },
		func() error { return os.RemoveAll(s.dir) },
	} {
		if err := step(); err != nil {
			fmt.Fprintln(os.Stderr, "integration:", err)
			return
		}
	}
}

// environ is the environment of commands: the machine's, without its user's configuration of
// container tools.
func (s *suite) environ() []string {
	return append(os.Environ(), s.variables()...)
}

func (s *suite) variables() []string {
	return append(s.podmanVariables(),
		"PATH="+strings.Join(append(s.path(), os.Getenv("PATH")), string(os.PathListSeparator)),
		"DOCKER_HOST="+s.docker.host(),
		"DOCKER_CONFIG="+s.dockerConfig(),
		"LC_ALL=C",
		// Otherwise, upstream's registry would send its traces somewhere.
		"OTEL_TRACES_EXPORTER=none",
	)
}

func (s *suite) buildRegistry() (string, error) {
	program := filepath.Join(s.dir, "bin", "registry")
	build := exec.Command("go", "build", "-o", program, "./cmd/registry")
	build.Dir = s.root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the registry: %w\n%s", err, out)
	}
	return program, nil
}

// makeDemo makes the demo package set, in a directory that stays for the next time.
func (s *suite) makeDemo() (string, error) {
	dir := filepath.Join(s.root, "build", "demo")
	out, err := exec.Command(filepath.Join(s.root, "examples", "debian", "make.sh"), dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("making the demo package set: %w\n%s", err, out)
	}
	return dir, nil
}
