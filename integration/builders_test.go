package integration

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// sshdConfig is for a server with one key, which runs the same command for every request.
const sshdConfig = `HostKey %[1]s/host
AuthorizedKeysFile %[1]s/user.pub
ForceCommand %[1]s/serve
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
`

// builderConf is the nix.conf of a remote builder. Nix ends all processes of the users that it
// builds as: two stores on one machine can't share them.
const builderConf = `build-users-group =
substituters =
system-features = far
sandbox-paths = /signals=%s
`

// serve is that command: it runs the program that Nix asks for, one of its own, on a store of its
// own.
const serve = `#!/bin/sh
export PATH='%[2]s' NIX_CONF_DIR='%[1]s' NIX_REMOTE='local?root=%[1]s/store'
exec $SSH_ORIGINAL_COMMAND
`

// A builderMode is what a remote builder does with connections.
type builderMode int

const (
	down   builderMode = iota // it hangs up
	silent                    // it says nothing, as a machine that hangs
	up                        // it answers
)

// A remoteBuilder has the feature far and a Nix store of its own, behind a real SSH server on
// loopback. It is down at first.
type remoteBuilder struct {
	t        *testing.T
	dir      string // has the builder's files: signals, and store, which is the root of its Nix store
	sshd     string
	listener *net.TCPListener

	mu       sync.Mutex
	mode     builderMode
	held     []*os.File
	sessions []*exec.Cmd
}

func newRemoteBuilder(t *testing.T) *remoteBuilder {
	t.Helper()
	Needs(t, "ssh", "ssh-keygen", "nix-store", "nix-daemon")
	b := &remoteBuilder{t: t, dir: Dir(t), sshd: needs.Tool(t, "sshd")} // sshd wants to be called by its whole name
	for _, key := range []string{"host", "user"} {
		Exec(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(b.dir, key))
	}
	signals := filepath.Join(b.dir, "signals")
	// The last is sshd's, which a system makes when it starts.
	for _, dir := range []string{signals, filepath.Join(b.dir, "store"), "/run/sshd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	Write(t, filepath.Join(b.dir, "sshd_config"), fmt.Sprintf(sshdConfig, b.dir))
	Write(t, filepath.Join(b.dir, "nix.conf"), fmt.Sprintf(builderConf, signals))
	if err := os.WriteFile(
		filepath.Join(b.dir, "serve"), fmt.Appendf(nil, serve, b.dir, os.Getenv("PATH")), 0o755,
	); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.listener, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	go b.accept()
	t.Cleanup(func() {
		b.listener.Close()
		b.become(down)
		if log, err := os.ReadFile(b.log()); err == nil && t.Failed() {
			t.Logf("sshd's log:\n%s", log)
		}
	})
	return b
}

func (b *remoteBuilder) accept() {
	for {
		conn, err := b.listener.AcceptTCP()
		if err != nil {
			return
		}
		if file, err := conn.File(); err != nil {
			b.t.Errorf("taking a connection: %v", err)
		} else {
			b.take(file)
		}
		conn.Close()
	}
}

func (b *remoteBuilder) take(conn *os.File) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mode == silent {
		b.held = append(b.held, conn)
		return
	}
	defer conn.Close()
	if b.mode == down {
		return
	}
	session := exec.Command(b.sshd, "-i", "-E", b.log(), "-f", filepath.Join(b.dir, "sshd_config"))
	session.Stdin, session.Stdout = conn, conn
	if err := session.Start(); err != nil {
		b.t.Errorf("starting sshd: %v", err)
		return
	}
	b.sessions = append(b.sessions, session)
}

// become ends all connections, and what they had begun.
func (b *remoteBuilder) become(mode builderMode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mode = mode
	for _, conn := range b.held {
		conn.Close()
	}
	for _, session := range b.sessions {
		_ = session.Process.Kill()
		_ = session.Wait()
	}
	b.held, b.sessions = nil, nil
}

func (b *remoteBuilder) log() string { return filepath.Join(b.dir, "sshd.log") }

// has tells whether there is such a file below its directory.
func (b *remoteBuilder) has(path ...string) bool {
	_, err := os.Lstat(filepath.Join(b.dir, filepath.Join(path...)))
	return err == nil
}

// sshOptions are for NIX_SSHOPTS.
func (b *remoteBuilder) sshOptions() string {
	return fmt.Sprintf("-p %d", b.listener.Addr().(*net.TCPAddr).Port)
}

// machine is the builder's line in nix.builders.
func (b *remoteBuilder) machine(scheme string) string {
	b.t.Helper()
	me, err := user.Current()
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(b.dir, "host.pub"))
	if err != nil {
		b.t.Fatal(err)
	}
	system := Exec(b.t, "nix-instantiate", "--eval", "--expr", "builtins.currentSystem")
	return fmt.Sprintf(
		"%s://%s@127.0.0.1 %s %s 1 1 far - %s", scheme, me.Username, strings.Trim(system, `"`),
		filepath.Join(b.dir, "user"), base64.StdEncoding.EncodeToString(key),
	)
}

// TestRemoteBuilders builds on another machine what only that can build, and goes on when it is
// back.
func TestRemoteBuilders(t *testing.T) {
	t.Parallel()
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		packages := freshSet(t, "builders")
		r := StartRegistry(t, "nix.packages.path="+packages)
		status, _, body, err := r.Get(t.Context(), "/v2/far/manifests/latest", v1.MediaTypeImageManifest)
		if err != nil || status != http.StatusForbidden || !strings.Contains(string(body), " with far: give Nix") {
			t.Errorf("without a builder, the answer is %d, %v: %s", status, err, body)
		}
	})
	for _, scheme := range []string{"ssh", "ssh-ng"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			packages := freshSet(t, "builders")
			builder := newRemoteBuilder(t)
			r := NewRegistry(t, "nix.packages.path="+packages, "nix.nix.builders="+builder.machine(scheme))
			r.Env = []string{"NIX_SSHOPTS=" + builder.sshOptions()}
			r.Start()
			get := func(name string) (status int, body string) {
				status, header, content, err := r.Get(
					t.Context(), "/v2/"+name+"/manifests/latest", v1.MediaTypeImageManifest,
				)
				if err != nil {
					t.Errorf("pulling %s: %v", name, err)
				}
				if again := header.Get("Retry-After"); (again != "") != (status == http.StatusServiceUnavailable) {
					t.Errorf("the answer %d has Retry-After: %q", status, again)
				}
				return status, string(content)
			}

			for i, mode := range []builderMode{down, silent} {
				builder.become(mode)
				// A redirect would mean that it takes longer than a client is kept waiting.
				if status, body := get("far"); status != http.StatusServiceUnavailable {
					t.Fatalf("without the builder, the answer is %d: %s", status, body)
				}
				r.AwaitLog("with far: cannot build on '"+scheme+"://", i+1)
			}

			builder.become(up)
			r.Verify(t, r.Pull(t, "far"), Closure(t, packages, "far"))
			if out := Closure(t, packages, "far")[0]; !builder.has("store", string(out)) {
				t.Errorf("the builder has no %s", out)
			}
			for _, name := range []string{"fails", "needy"} {
				status, body := get(name)
				if status != http.StatusForbidden ||
					!strings.Contains(
						body, "building fails-1.0 failed with exit code 3; its last lines: no such luck",
					) {
					t.Errorf("%s is answered with %d: %s", name, status, body)
				}
			}

			lost := make(chan struct{})
			go func() {
				defer close(lost)
				if status, body := get("waits"); status != http.StatusServiceUnavailable {
					t.Errorf("when the builder is lost, the answer is %d: %s", status, body)
				}
			}()
			Eventually(t, commandTime, "the build begins", func() bool { return builder.has("signals", "begun") })
			builder.become(down)
			<-lost
			r.AwaitLog("lost the remote builder", 1)

			Write(t, filepath.Join(builder.dir, "signals", "go"), "")
			builder.become(up)
			r.Verify(t, r.Pull(t, "waits"), Closure(t, packages, "waits"))
		})
	}
}
