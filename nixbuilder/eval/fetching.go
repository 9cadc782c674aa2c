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

// forbidden is part of what Nix says if it may not fetch something.
const forbidden = "is forbidden in restricted mode"

// wantsToFetch reports whether an evaluation without a network failed for want of one.
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

// allowedURIs is the value of Nix's option of that name. Newer Nix (2.26, not 2.8) asks for a git
// repository's URI with git+ before it.
func allowedURIs(prefixes []string) string {
	all := slices.Clone(prefixes)
	for _, prefix := range prefixes {
		if !strings.HasPrefix(prefix, "path:") && !strings.HasPrefix(prefix, "git+") {
			all = append(all, "git+"+prefix)
		}
	}
	return strings.Join(all, " ")
}

// UselessForGit returns those of Options.AllowedURIs that name a git repository which this Nix
// refuses to fetch all the same. Newer Nix puts a question mark behind a repository's URL, and
// requires that a prefix ends before a slash. So the directory of such a repository can be allowed,
// but not the repository alone.
func (e *Evaluator) UselessForGit(ctx context.Context) (useless []string, err error) {
	for _, uri := range e.options.AllowedURIs {
		if !strings.HasSuffix(uri, ".git") {
			continue
		}
		output, err := e.runner.Run(ctx, proc.Command{
			Program: e.options.NixInstantiate,
			Args: []string{
				"--eval", "--store", "dummy://",
				"--option", "restrict-eval", "true", "--option", "allowed-uris", allowedURIs(e.options.AllowedURIs),
				"--expr", "{ url }: (builtins.fetchGit { inherit url; }).outPath",
				"--argstr", "url", strings.TrimPrefix(uri, "git+"),
			},
			// Nothing is fetched: there is neither git nor a network.
			Env: []string{
				"HOME=/nonexistent", "NIX_CONF_DIR=/nonexistent", "XDG_CACHE_HOME=/nonexistent", "PATH=/nonexistent",
			},
			Confine: &proc.Confinement{CPU: e.options.CPU, Memory: e.options.Memory},
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

// persistent is the store of a package set that fetches or is a flake: a directory of the
// unprivileged user's, which need not be there yet. Other sets have other stores, and so have other
// revisions, unless their sources share.
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
	s := evalStore{fetches: len(e.options.AllowedURIs) > 0, flake: isFlake(path), apart: apart}
	return persistentIn(filepath.Join(e.Dir(), name), s), nil
}

// persistentIn is a persistent store in a directory.
func persistentIn(dir string, s evalStore) evalStore {
	s.uri, s.cache, s.persistent = "local?root="+dir+"/root", dir, true
	s.write = s.flake // a flake's own files, at least
	return s
}

// offline is another persistent store for the same set, for as long as it is not known to fetch.
func (s evalStore) offline() evalStore {
	s.fetches = false
	return persistentIn(s.cache+"-offline", s)
}

func (s evalStore) exists() bool {
	_, err := os.Stat(s.cache)
	return err == nil
}
