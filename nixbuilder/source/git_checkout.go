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
// Neither hooks nor the repository's own configuration are used, and what git is set up with on
// this machine does not change files.
func (g *Git) checkOut(ctx context.Context, commit, ref, dir string) (time.Time, error) {
	g.fetching.Lock()
	defer g.fetching.Unlock()
	lock, err := lockTree(g.options.Dir, unix.LOCK_EX) // of other processes, too: git itself fails instead of waiting
	if err != nil {
		return time.Time{}, err
	}
	defer lock.Close()
	objects := g.objects()
	if err := g.init(ctx, objects); err != nil {
		return time.Time{}, err
	}
	used(objects)
	var date time.Time
	err = cachedir.Within(
		ctx,
		cmp.Or(g.options.MaxBytes, math.MaxInt64),
		[]string{objects, filepath.Dir(dir)},
		func(ctx context.Context) error {
			if err := g.fetch(ctx, objects, commit, ref); err != nil {
				return err
			}
			date, err = g.write(ctx, objects, commit, dir)
			return err
		},
	)
	if most := g.options.MaxBytes; err == nil && most > 0 && cachedir.Usage(dir) > most {
		err = cachedir.ErrTooMuch // it was written fast
	}
	if errors.Is(err, cachedir.ErrTooMuch) {
		removeAll(objects)
		err = notAllowed(
			"commit %s takes more room than %s (cachesize)", commit,
			units.BytesSize(float64(g.options.MaxBytes)),
		)
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

// fetch gets a commit: alone where the server gives out commits by name, else with the branch or
// tag that it was found by, else with all there is.
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
		whole = append(
			[]string{"--unshallow"},
			whole...) // else nothing would come of what lies behind commits that were fetched alone
	}
	attempts = append(attempts, append(whole, all...))
	var errs []error
	for _, attempt := range attempts {
		_, err := g.gitIn(
			ctx,
			objects,
			"",
			append(
				[]string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no"},
				attempt...)...)
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

// tidyBytes is how much may be added to the objects, beside as much as there is, before those that
// no tree has are removed.
const tidyBytes = 32 << 20

// tidy notes that a commit has a tree, so that what the next one has in common with it is not
// fetched again, and now and then removes objects of other commits than those that have one.
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

// write writes the files of a commit that was fetched.
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
