package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// asks is how often a stored image is asked for in a row.
const asks = 100

// again measures pulls of an image that is stored and has not changed, against the same from the
// stock registry on the same storage.
func (b *bench) again(ctx context.Context) error {
	git, err := b.gitPackages(ctx)
	if err != nil {
		return err
	}
	t := newTable("", "pull", "stock registry", "**difference**", "time, ratio")
	for _, c := range []struct {
		about, name string
		settings    settings
		target      bool
	}{
		{"packages in a path, " + b.images[0].String(), b.images[0].name, settings{}, true},
		{"packages in a path, " + b.largest().String(), b.largest().name, settings{}, true},
		{"packages in git, within `refresh`", "quick", settings{packages: git, refresh: time.Hour}, true},
		{"packages in git, after `refresh`", "quick", settings{packages: git, refresh: time.Nanosecond}, false},
	} {
		b.progress("again: %s", c.about)
		ours, stock, err := b.askAgain(ctx, c.name, c.settings)
		if err != nil {
			return err
		}
		difference := median(ours) - median(stock)
		t.row(c.about, median(ours), median(stock), duration(difference), float64(median(ours))/float64(median(stock)))
		if c.target {
			b.aim("again, "+c.about+": ms more than the stock registry", milliseconds(difference), 2, "%.2f")
		}
	}
	for _, img := range []image{b.images[0], b.largest()} {
		about := "packages in a path, " + img.String() + ", first pull after a restart"
		b.progress("again: %s", about)
		var ours, stock []time.Duration
		for range b.runs {
			for _, start := range []struct {
				server func() (*server, error)
				times  *[]time.Duration
			}{
				{func() (*server, error) { return b.startCold(ctx, settings{}) }, &ours},
				{func() (*server, error) { return b.startStock(ctx, settings{}) }, &stock},
			} {
				s, err := start.server()
				if err != nil {
					return err
				}
				pull, err := s.timedPull(ctx, img.name)
				s.stop()
				if err != nil {
					return err
				}
				*start.times = append(*start.times, pull.wall)
			}
		}
		t.row(
			about, median(ours), median(stock), duration(median(ours)-median(stock)),
			float64(median(ours))/float64(median(stock)),
		)
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// askAgain pulls an image that is stored by then from the registry and from the stock registry, in
// turns.
func (b *bench) askAgain(ctx context.Context, name string, with settings) (ours, stock []time.Duration, err error) {
	s, err := b.startCold(ctx, with)
	if err != nil {
		return nil, nil, err
	}
	defer s.stop()
	if _, err := s.ask(ctx, name, 3); err != nil { // the first of which may build it
		return nil, nil, err
	}
	reference, err := b.startStock(ctx, settings{})
	if err != nil {
		return nil, nil, err
	}
	defer reference.stop()
	for range b.runs {
		for _, turn := range []struct {
			server *server
			times  *[]time.Duration
		}{{s, &ours}, {reference, &stock}} {
			times, err := turn.server.ask(ctx, name, asks)
			if err != nil {
				return nil, nil, err
			}
			*turn.times = append(*turn.times, times...)
		}
	}
	return ours, stock, nil
}

// ask pulls an image n times in a row.
func (s *server) ask(ctx context.Context, name string, n int) ([]time.Duration, error) {
	all := make([]time.Duration, n)
	for i := range all {
		started := time.Now()
		if _, err := s.pull(ctx, name); err != nil {
			return nil, err
		}
		all[i] = time.Since(started)
	}
	return all, nil
}

// gitPackages makes a git repository of a small package set, that of the tests, and returns how it
// is configured.
func (b *bench) gitPackages(ctx context.Context) (map[string]any, error) {
	dir := filepath.Join(b.dir, "packages.git")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	busybox, err := filepath.Glob(filepath.Join(b.demo(), "*", "bootstrap", "busybox"))
	if err != nil || len(busybox) == 0 {
		return nil, fmt.Errorf("%s has no busybox: make it again", b.demo())
	}
	set, err := os.ReadFile(filepath.Join(b.root, "integration", "testdata", "fresh", "default.nix"))
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(busybox[0])
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return nil, err
	}
	for _, file := range []struct {
		name    string
		content []byte
		mode    os.FileMode
	}{
		{"default.nix", set, 0o644}, {"bin/busybox", program, 0o755}, {"salt", []byte("bench"), 0o644},
		{"text", []byte("bench"), 0o644},
	} {
		if err := os.WriteFile(filepath.Join(dir, file.name), file.content, file.mode); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "."},
		{"-c", "user.name=bench", "-c", "user.email=bench@example.org", "commit", "--quiet", "--message=bench"},
	} {
		git := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
		git.Env = append(
			os.Environ(), "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z",
		) // the same commit each time
		if text, err := git.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("git %s: %w\n%s", args[0], err, text)
		}
	}
	return map[string]any{"git": map[string]any{"url": "file://" + dir, "ref": "main"}}, nil
}
