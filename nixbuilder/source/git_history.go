package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
	"github.com/nixery-registry/nixery-registry/nixbuilder/limit"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

const (
	// historyBytes is how much room the commits of a repository may take. Those of nixpkgs, without
	// files and directories, take some hundred megabytes.
	historyBytes = 1 << 30
	// historyPacks is how many packs of commits there may be before all are fetched anew. Each
	// fetch that brings something adds one.
	historyPacks = 50
	// historyAgain is how long a repository is left alone whose history was too large.
	historyAgain = time.Hour
)

// A history tells which commits the branches and tags of a repository lead to. It has a repository
// of its own, without files if the server can leave them out. Only what advertised branches and
// tags lead to is ever fetched into it. It is safe for concurrent use, also by several processes.
type history struct {
	git   *Git
	dir   string
	bytes int64

	slot     limit.Slots // one: for asking, and what follows
	fetched  time.Time
	tooLarge time.Time // when it last was
}

// leads returns nil if a branch or tag leads to a commit. It fails with a *NotAllowedError if none
// does, or if that can't be told.
func (h *history) leads(ctx context.Context, commit string) error {
	release, err := h.slot.Acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	lock, err := lockTree(h.dir, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	repository := h.repository()
	used(repository)
	if _, err := os.Stat(repository); err == nil && time.Since(h.fetched) < h.git.options.Refresh {
		if has, err := h.has(ctx, repository, commit); has || err != nil {
			return err
		}
	}
	tooLarge := notAllowed(
		"whether commit %s is in the history of the package repository can't be told, as that takes more than %s: "+
			"choose a branch or a tag, or have packages.tags list \"*\"",
		commit, units.BytesSize(float64(h.bytes)),
	)
	if time.Since(h.tooLarge) < historyAgain {
		return tooLarge
	}
	if err := h.fetch(ctx, repository); errors.Is(err, cachedir.ErrTooMuch) {
		h.tooLarge = time.Now()
		return tooLarge
	} else if err != nil {
		return err
	}
	h.fetched = time.Now()
	h.git.grown()
	has, err := h.has(ctx, repository, commit)
	if err == nil && !has {
		err = notAllowed(
			"commit %s may not be chosen: no branch or tag of the package repository leads to it (packages.tags)",
			commit,
		)
	}
	return err
}

func (h *history) repository() string { return filepath.Join(h.dir, "commits.git") }

// fetch gets what is new. If the repository has become too large, it starts once more from an empty
// one.
func (h *history) fetch(ctx context.Context, repository string) error {
	packs, err := filepath.Glob(filepath.Join(repository, "objects", "pack", "*.pack"))
	if err != nil {
		return err
	}
	if len(packs) > historyPacks {
		removeAll(repository)
	}
	_, err = os.Stat(repository)
	anew := err != nil
	err = h.fetchInto(ctx, repository)
	if errors.Is(err, cachedir.ErrTooMuch) && !anew {
		removeAll(repository)
		err = h.fetchInto(ctx, repository)
	}
	if errors.Is(err, cachedir.ErrTooMuch) {
		removeAll(repository)
	}
	return err
}

// fetchInto gets all commits that branches and tags lead to, and forgets branches and tags that are
// gone.
func (h *history) fetchInto(ctx context.Context, repository string) error {
	filter, err := h.filter(ctx)
	if err != nil {
		return err
	}
	if err := h.git.init(ctx, repository); err != nil {
		return err
	}
	// Git notes in its configuration that missing objects can be fetched from the server, and would
	// fetch one for each commit that it is asked about.
	config := filepath.Join(repository, "config")
	plain, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	defer func() { _ = os.WriteFile(config, plain, 0o644) }()
	fetch := slices.Concat(
		[]string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--prune"},
		filter,
		[]string{"--", h.git.options.URL, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"},
	)
	left := h.bytes - cachedir.Usage(repository)
	err = cachedir.Within(ctx, left, []string{repository}, func(ctx context.Context) error {
		_, err := h.git.gitIn(ctx, repository, "", fetch...)
		return err
	})
	if err == nil && cachedir.Usage(repository) > h.bytes {
		err = cachedir.ErrTooMuch // it came too fast to be stopped
	}
	return err
}

// withFilters matches what a server that can leave out files says of itself, in both versions of
// the protocol.
var withFilters = regexp.MustCompile(`(?m)packet: .*< (?:fetch=|[0-9a-f]{40} ).*[= ]filter(?: |$)`)

// filter returns the option by which the server sends commits alone; none if it can't. Asking in
// vain does harm: from a server of plain files, git 2.39 fetches each missing object with a process
// that misses another, without end.
func (h *history) filter(ctx context.Context) ([]string, error) {
	list := []string{"ls-remote", "--heads", "--", h.git.options.URL, "HEAD"} // which lists nothing
	output, err := h.git.output(ctx, []string{"GIT_TRACE_PACKET=1"}, list)
	if !withFilters.Match(output.Stderr) {
		return nil, err
	}
	return []string{"--filter=tree:0"}, err
}

// has tells whether a branch or tag that was fetched leads to a commit.
func (h *history) has(ctx context.Context, repository, commit string) (bool, error) {
	if _, err := h.git.gitIn(ctx, repository, "", "cat-file", "-e", commit); err != nil {
		if failure := (*proc.Error)(nil); errors.As(err, &failure) && failure.Exit == 1 {
			return false, nil // it is nowhere
		}
		return false, err
	}
	output, err := h.git.gitIn(ctx, repository, "", "rev-list", "--max-count=1", commit, "--not", "--all")
	if err != nil && ctx.Err() == nil {
		removeAll(repository) // it is damaged
	}
	return err == nil && len(output) == 0, err
}
