package eval

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// forbidden is how Nix refuses to fetch what it was not allowed to.
const forbidden = "is forbidden in restricted mode"

// wantsToFetch reports whether an evaluation without a network failed for that.
func wantsToFetch(results map[string]Result, err error) bool {
	if fault := (*SourceError)(nil); errors.As(err, &fault) {
		return isFetch(fault.Message)
	}
	for _, result := range results {
		if result.Failure != nil && isFetch(result.Failure.Message) {
			return true
		}
	}
	return false
}

func isFetch(message string) bool {
	return strings.Contains(message, "access to URI") && strings.Contains(message, forbidden)
}

// allowedURIs is the value of Nix's option of that name. Newer Nix (2.26, not 2.8) asks for the URI
// of a git repository with git+ before it.
func allowedURIs(prefixes []string) string {
	all := slices.Clone(prefixes)
	for _, prefix := range prefixes {
		if !strings.HasPrefix(prefix, "path:") && !strings.HasPrefix(prefix, "git+") {
			all = append(all, "git+"+prefix)
		}
	}
	return strings.Join(all, " ")
}

// UselessForGit returns those of Options.AllowedURIs that name a repository which this Nix refuses
// to fetch all the same. Newer Nix puts a question mark behind a repository's URL, and lets a
// prefix end before a slash only: the repository can't be allowed, but the directory that it is in.
func (e *Evaluator) UselessForGit(ctx context.Context) (useless []string, err error) {
	for _, uri := range e.options.AllowedURIs {
		if !strings.HasSuffix(uri, ".git") {
			continue
		}
		output, err := e.runner.Run(ctx, proc.Command{
			Program: e.options.NixInstantiate,
			Args: []string{
				"--eval", "--store", "dummy://", "--option", "restrict-eval", "true", "--option", "allowed-uris", allowedURIs(e.options.AllowedURIs),
				"--expr", "{ url }: (builtins.fetchGit { inherit url; }).outPath", "--argstr", "url", strings.TrimPrefix(uri, "git+"),
			},
			Env: []string{
				"HOME=/nonexistent", "NIX_CONF_DIR=/nonexistent", "XDG_CACHE_HOME=/nonexistent",
				"PATH=/nonexistent",
			},
			Confine: &proc.Confinement{
				CPU:    e.options.CPU,
				Memory: e.options.Memory,
			}, // nothing is fetched: there is neither git nor a network
		})
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		if strings.Contains(string(output.Stderr), forbidden) {
			useless = append(useless, uri)
		}
	}
	return useless, nil
}

// persistent is the store of a package set that fetches or is a flake, a directory of the unprivileged
// user's. It is not made yet. Evaluations of other sets don't see it, nor those of other revisions,
// unless their sources share.
func (e *Evaluator) persistent(source Source) (evalStore, error) {
	path, err := filepath.EvalSymlinks(source.Path)
	if err != nil {
		return evalStore{}, fmt.Errorf("evaluating a package set: %w", err)
	}
	apart := source.Shares != ""
	sum := sha256.Sum256([]byte(cmp.Or(source.Shares, path)))
	name := hex.EncodeToString(sum[:16])
	if apart {
		name = sharedPrefix + name
	}
	dir := filepath.Join(e.Dir(), name)
	return persistentIn(dir, evalStore{fetches: len(e.options.AllowedURIs) > 0, flake: isFlake(path), apart: apart}), nil
}

// persistentIn is a persistent store in a directory.
func persistentIn(dir string, s evalStore) evalStore {
	s.uri, s.cache, s.persistent = "local?root="+dir+"/root", dir, true
	s.write = s.flake // a flake's own files, at least
	return s
}

// offline is another persistent store for the same set, which it has while it is not known to fetch.
func (s evalStore) offline() evalStore {
	s.fetches = false
	return persistentIn(s.cache+"-offline", s)
}

func (s evalStore) exists() bool {
	_, err := os.Stat(s.cache)
	return err == nil
}
