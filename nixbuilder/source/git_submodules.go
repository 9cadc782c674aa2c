package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// withSubmodules marks the directory of trees that have the files of submodules.
const withSubmodules = "submodules"

// submodules lists the paths of the submodules in an index, without those that these have.
func (g *Git) submodules(ctx context.Context, objects, index string) (paths []string, err error) {
	output, err := g.gitIn(ctx, objects, index, "ls-files", "--stage", "-z")
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(output), "\x00") {
		if status, path, ok := strings.Cut(entry, "\t"); ok && strings.HasPrefix(status, "160000 ") {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// checkOutSubmodules adds the files of submodules to dir, where the other files are. It fetches one
// commit of each submodule if the server gives out commits by name, else everything.
//
// Git itself refuses paths that lead out of the tree (through links, too), names that lead out of
// its own directory, URLs and paths that are options, and commands in .gitmodules.
func (g *Git) checkOutSubmodules(ctx context.Context, objects, index, dir string) error {
	repository := filepath.Join(filepath.Dir(dir), "submodules.git")
	defer removeAll(repository)
	var errs []error
	for _, depth := range [][]string{{"--depth=1"}, nil} {
		removeAll(repository)
		if err := removeGitFiles(dir); err != nil { // a first attempt may have failed half-way
			return err
		}
		err := g.updateSubmodules(ctx, objects, index, repository, dir, depth)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (g *Git) updateSubmodules(ctx context.Context, objects, index, repository, dir string, depth []string) error {
	if err := g.init(ctx, repository); err != nil {
		return err
	}
	alternates := filepath.Join(repository, "objects", "info", "alternates")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(alternates), 0o755),
		os.WriteFile(alternates, []byte(filepath.Join(objects, "objects")+"\n"), 0o644),
	); err != nil {
		return err
	}
	// Relative URLs start from here.
	if _, err := g.gitIn(ctx, repository, "", "config", "remote.origin.url", g.options.URL); err != nil {
		return err
	}
	env := []string{"GIT_DIR=" + repository, "GIT_WORK_TREE=" + dir, "GIT_INDEX_FILE=" + index}
	if !g.local() {
		// A remote has no say in what is read from this machine.
		env = append(env, "GIT_ALLOW_PROTOCOL="+remoteProtocols)
	}
	update := []string{"-C", dir, "submodule", "--quiet", "update", "--init", "--recursive", "--force", "--checkout"}
	if _, err := g.run(ctx, env, append(update, depth...)); err != nil {
		return err
	}
	return removeGitFiles(dir)
}

// removeGitFiles removes what git leaves in submodules that it checked out. No commit has files of
// that name.
func removeGitFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != ".git" {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if entry.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
}
