package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// lastingKept is how many package sets keep what they fetched, those used last.
const lastingKept = 4

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

// lasting is the store of a package set that fetches or is a flake, a directory of the unprivileged user's. It is not made yet. Only evaluations of
// that set see it.
func (e *Evaluator) lasting(source Source) (evalStore, error) {
	path, err := filepath.EvalSymlinks(source.Path)
	if err != nil {
		return evalStore{}, fmt.Errorf("evaluating a package set: %w", err)
	}
	sum := sha256.Sum256([]byte(path))
	dir := filepath.Join(e.options.ScratchDir, "fetched", hex.EncodeToString(sum[:16]))
	return lastingIn(dir, evalStore{fetches: len(e.options.AllowedURIs) > 0, flake: isFlake(path)}), nil
}

// lastingIn is a lasting store in a directory.
func lastingIn(dir string, s evalStore) evalStore {
	s.uri, s.cache, s.lasts = "local?root="+dir+"/root", dir, true
	s.write = s.flake // a flake's own files, at least
	return s
}

// offline is another lasting store for the same set, which it has while it is not known to fetch.
func (s evalStore) offline() evalStore {
	s.fetches = false
	return lastingIn(s.cache+"-offline", s)
}

func (s evalStore) exists() bool {
	now := time.Now()
	return os.Chtimes(s.cache, now, now) == nil
}

// prepare makes the directory of a lasting store, unless it is there, and removes those that were not used for long.
func (e *Evaluator) prepare(s evalStore) error {
	if s.exists() {
		return nil
	}
	all := filepath.Dir(s.cache)
	if err := os.MkdirAll(all, 0o755); err != nil {
		return fmt.Errorf("making a store for what is fetched: %w", err)
	}
	entries, err := os.ReadDir(all)
	if err != nil {
		return fmt.Errorf("making a store for what is fetched: %w", err)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return modified(b).Compare(modified(a)) })
	for i, entry := range entries {
		if i >= lastingKept-1 && time.Since(modified(entry)) > time.Hour {
			_ = os.RemoveAll(filepath.Join(all, entry.Name())) // tried again the next time
		}
	}
	if err := os.Mkdir(s.cache, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making a store for what is fetched: %w", err)
	}
	uid, gid := e.runner.ConfinedUser()
	return os.Chown(s.cache, uid, gid)
}

func modified(entry os.DirEntry) time.Time {
	info, err := entry.Info()
	if err != nil {
		return time.Time{} // it is gone
	}
	return info.ModTime()
}
