package eval

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// askFeatures asks Nix whether it is configured to build content-addressed derivations.
func (e *Evaluator) askFeatures(ctx context.Context) (string, error) {
	const example = `(derivation {
		name = "example"; system = "none"; builder = "none";
		__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
	}).outPath`
	output, err := e.runner.Run(ctx, proc.Command{
		Program: e.options.NixInstantiate,
		Args:    []string{"--eval", "--store", "dummy://", "--expr", example},
		Env: slices.Concat(
			[]string{"HOME=/nonexistent", "USER=registry", "NIX_STATE_DIR=/nonexistent"}, e.options.HostEnv,
		),
	})
	if err != nil && experimental.Match(output.Stderr) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("asking whether Nix builds content-addressed derivations: %w", err)
	}
	return "ca-derivations", nil
}

// Derive adds a derivation to Options.Store. The expression is this program's own.
func (e *Evaluator) Derive(ctx context.Context, expression string) (store.Path, error) {
	args := []string{"--expr", expression}
	if e.options.Store != "" {
		args = append(args, "--store", e.options.Store)
	}
	output, err := e.runner.Run(ctx, proc.Command{
		Program: e.options.NixInstantiate,
		Args:    args,
		Env:     slices.Concat([]string{"HOME=/nonexistent", "USER=registry", "NIX_PATH="}, e.options.HostEnv),
		Kill:    syscall.SIGTERM,
	})
	if err != nil {
		return "", fmt.Errorf("adding a derivation: %w", err)
	}
	return store.ParsePath(strings.TrimSpace(string(output.Stdout)))
}

// Setting returns the value of a setting, in the words of nix.conf.
func (e *Evaluator) Setting(ctx context.Context, name string) (string, error) {
	output, err := e.runner.Run(ctx, proc.Command{
		Program: e.nix,
		Args:    []string{"--extra-experimental-features", "nix-command", "show-config"}, // newer Nix: also config show
		Env:     slices.Concat([]string{"HOME=/nonexistent", "USER=registry"}, e.options.HostEnv),
	})
	if err != nil {
		return "", fmt.Errorf("asking for the setting %s: %w", name, err)
	}
	for line := range strings.Lines(string(output.Stdout)) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("asking for the setting %s: Nix does not know it", name)
}
