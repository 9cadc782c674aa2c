package source

import (
	"cmp"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/cachedir"
)

// checkOut writes the files of a commit into dir as they were committed, and returns its date.
// Hooks, the repository's own configuration and this machine's configuration of git do not change
// the files.
func (g *Git) checkOut(ctx context.Context, commit, ref, dir string) (time.Time, error) {
	g.fetching.Lock()
	defer g.fetching.Unlock()
	lock, err := lockTree(g.options.Dir, unix.LOCK_EX) // against other processes: git fails instead of waiting
	if err != nil {
		return time.Time{}, err
	}
	defer lock.Close()
	if there, err := g.trees.have(commit); there || err != nil {
		return time.Time{}, err // another process has made it meanwhile
	}
	objects := g.objects()
	if err := g.init(ctx, objects); err != nil {
		return time.Time{}, err
	}
	used(objects)
	var date time.Time
	most, filled := cmp.Or(g.options.MaxBytes, math.MaxInt64), []string{objects, filepath.Dir(dir)}
	err = cachedir.Within(ctx, most, filled, func(ctx context.Context) error {
		if err := g.fetch(ctx, objects, commit, ref); err != nil {
			return err
		}
		date, err = g.write(ctx, objects, commit, dir)
		return err
	})
	if err == nil && g.options.MaxBytes > 0 && cachedir.Usage(dir) > most {
		err = cachedir.ErrTooMuch // it was written too fast to be stopped
	}
	if errors.Is(err, cachedir.ErrTooMuch) {
		removeAll(objects)
		err = notAllowed("commit %s takes more room than %s (cachesize)", commit, units.BytesSize(float64(most)))
	}
	if err != nil {
		return time.Time{}, err
	}
	if g.tidy(ctx, objects, commit) != nil && ctx.Err() == nil {
		removeAll(objects) // what can't be kept in order is fetched again
	}
	return date, nil
}

func (g *Git) objects() string { return filepath.Join(g.options.Dir, "objects.git") }

// fetch gets a commit: alone if the server gives out commits by name, else with the branch or tag
// by which it was found, else with everything that branches and tags lead to.
func (g *Git) fetch(ctx context.Context, objects, commit, ref string) error {
	has := func() bool {
		_, err := g.gitIn(ctx, objects, "", "cat-file", "-e", commit+"^{commit}")
		return err == nil
	}
	if has() {
		return nil
	}
	all := []string{"+refs/heads/*:refs/remotes/all/*", "+refs/tags/*:refs/tags/*"}
	attempts := [][]string{{"--depth=1", "--", g.options.URL, commit}}
	if ref != "" && ref != commit {
		attempts = append(attempts, []string{"--depth=1", "--", g.options.URL, ref})
	}
	whole := []string{"--", g.options.URL}
	if _, err := os.Stat(filepath.Join(objects, "shallow")); err == nil {
		// Otherwise the history behind commits that were fetched alone would not come.
		whole = append([]string{"--unshallow"}, whole...)
	}
	attempts = append(attempts, append(whole, all...))
	fetch := []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no"}
	var errs []error
	for _, attempt := range attempts {
		_, err := g.gitIn(ctx, objects, "", slices.Concat(fetch, attempt)...)
		if has() {
			return nil
		}
		errs = append(errs, err)
	}
	if errs[len(errs)-1] == nil {
		return ErrUnknownTag // the remote was read, and does not have it
	}
	return errors.Join(errs...)
}

// tidyBytes is how much the objects may grow beyond twice their last tidy size before those without
// a tree are removed.
const tidyBytes = 32 << 20

// tidy gives a commit that has a tree a ref, so that the next fetch leaves out what the two have in
// common. Now and then it removes the objects of commits that have no tree any more.
func (g *Git) tidy(ctx context.Context, objects, commit string) error {
	const kept = "refs/kept/"
	if _, err := g.gitIn(ctx, objects, "", "update-ref", kept+commit, commit); err != nil {
		return err
	}
	if cachedir.Usage(objects) < 2*g.tidied+tidyBytes {
		return nil
	}
	output, err := g.gitIn(ctx, objects, "", "for-each-ref", "--format=%(refname)", kept)
	if err != nil {
		return err
	}
	trees := g.trees.used()
	for ref := range strings.Lines(string(output)) {
		ref = strings.TrimSpace(ref)
		if other := strings.TrimPrefix(ref, kept); other == commit || slices.Contains(trees, other) {
			continue
		}
		if _, err := g.gitIn(ctx, objects, "", "update-ref", "-d", ref); err != nil {
			return err
		}
	}
	if _, err := g.gitIn(ctx, objects, "", "gc", "--quiet", "--prune=now"); err != nil {
		return err
	}
	g.tidied = cachedir.Usage(objects)
	return nil
}

// write writes the files of a commit that was fetched, and returns its date.
func (g *Git) write(ctx context.Context, objects, commit, dir string) (time.Time, error) {
	index := filepath.Join(filepath.Dir(dir), "index")
	defer func() { _ = os.Remove(index) }()
	if _, err := g.gitIn(ctx, objects, index, "read-tree", commit); err != nil {
		return time.Time{}, err
	}
	if _, err := g.gitIn(
		ctx, objects, index, "--work-tree="+dir, "checkout-index", "--all", "--force", "--prefix="+dir+"/",
	); err != nil {
		return time.Time{}, err
	}
	submodules, err := g.submodules(ctx, objects, index)
	if err != nil {
		return time.Time{}, err
	}
	if len(submodules) > 0 && g.options.Submodules {
		err = g.checkOutSubmodules(ctx, objects, index, dir)
	} else {
		err = writePaths(dir, absentName, submodules)
	}
	if err != nil {
		return time.Time{}, err
	}
	pointers, err := pointers(dir)
	if err == nil {
		err = writePaths(dir, pointersName, pointers)
	}
	if err != nil {
		return time.Time{}, err
	}
	if len(pointers) > 0 {
		logrus.Warnf(
			"nix: %d files of %s at %s are in git LFS, such as %s: packages get what git has, which is not the content",
			len(pointers), g.name, commit, pointers[0],
		)
	}
	output, err := g.gitIn(ctx, objects, index, "log", "-1", "--format=%ct", commit, "--")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(output)), 10, 64)
	return time.Unix(seconds, 0), err
}
