package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// remoteProtocols do not read from this machine.
const remoteProtocols = "https:http:ssh"

// gitVariables are the variables that configure git, beside its files.
var gitVariables = []string{
	"PATH", "HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
	"SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT",
	"SSL_CERT_FILE", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_CERT", "GIT_SSL_KEY",
	"HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
}

func (g *Git) run(ctx context.Context, env, args []string) ([]byte, error) {
	output, err := g.output(ctx, env, args)
	return output.Stdout, err
}

// output runs git with the user's own credentials and for the protocols that URLs may have. Git
// asks nobody anything.
func (g *Git) output(ctx context.Context, env, args []string) (proc.Output, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	inherited := []string{
		"LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false", "SSH_ASKPASS=false", "SSH_ASKPASS_REQUIRE=force",
		"GIT_ALLOW_PROTOCOL=" + remoteProtocols + ":file", "GIT_TEMPLATE_DIR=" + g.template(),
	}
	for _, name := range gitVariables {
		if value := os.Getenv(name); value != "" {
			inherited = append(inherited, name+"="+value)
		}
	}
	g.setUpSSH.Do(func() { g.ssh = g.batchMode(ctx, inherited) })
	env = slices.Concat(inherited, g.ssh, g.password, env)
	options := []string{
		"-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*", "-c", "gc.auto=0",
		"-c", "core.symlinks=true", "-c", "core.sparseCheckout=false",
		"-c", "http.lowSpeedLimit=1000", "-c", fmt.Sprintf("http.lowSpeedTime=%.0f", g.silence.Seconds()),
	}
	if g.password != nil {
		options = append(options, "-c", "credential.helper=") // which git would ask first
	}
	return g.runner.Run(ctx, proc.Command{Program: "git", Args: append(options, args...), Env: env})
}

// batchMode keeps ssh from asking on a terminal and from waiting for a dead server, unless git is
// set up with another ssh.
func (g *Git) batchMode(ctx context.Context, env []string) []string {
	if os.Getenv("GIT_SSH_COMMAND") != "" || os.Getenv("GIT_SSH") != "" {
		return nil
	}
	// Outside of any repository this is the configuration of the user and of the machine.
	own := proc.Command{
		Program: "git", Args: []string{"config", "--get", "core.sshCommand"},
		Env: append(slices.Clip(env), "GIT_DIR=/nonexistent"),
	}
	if _, err := g.runner.Run(ctx, own); err == nil {
		return nil
	}
	return []string{"GIT_SSH_COMMAND=ssh -oBatchMode=yes -oConnectTimeout=30 -oServerAliveInterval=15"}
}

func (g *Git) gitIn(ctx context.Context, objects, index string, args ...string) ([]byte, error) {
	env := []string{"GIT_DIR=" + objects}
	if index != "" {
		env = append(env, "GIT_INDEX_FILE="+index)
	}
	return g.run(ctx, env, args)
}

func (g *Git) git(ctx context.Context, args ...string) ([]byte, error) { return g.run(ctx, nil, args) }

// New repositories, those of submodules included, begin with these, so that no file changes when it
// is checked out. These attributes override those of the files.
const (
	asCommitted = "* -filter -text -eol -ident -working-tree-encoding\n"
	plainConfig = "[core]\n\tsymlinks = true\n\tsparseCheckout = false\n"
)

// init makes a bare repository, unless it is there.
func (g *Git) init(ctx context.Context, repository string) error {
	if err := os.MkdirAll(filepath.Join(g.template(), "info"), 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{"info/attributes": asCommitted, "config": plainConfig} {
		if err := writeFile(filepath.Join(g.template(), name), []byte(content)); err != nil {
			return err
		}
	}
	_, err := g.git(ctx, "init", "--quiet", "--bare", "--", repository)
	return err
}

func (g *Git) template() string { return filepath.Join(g.options.Dir, "template") }
