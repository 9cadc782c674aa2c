package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// twenty are attributes that every nixpkgs has. The first ones are also measured alone, and half of them when a channel moves.
var twenty = []string{
	"hello", "wget", "ripgrep", "jq", "python3Packages.requests", "git", "curl", "openssl", "nodejs", "go",
	"python3", "tmux", "vim", "nginx", "redis", "postgresql", "ffmpeg", "sqlite", "ruby", "rsync",
}

const (
	alone = 5
	typo  = "ripgerp"

	channelName = "nixos-26.05"
)

// nixpkgs measures what the registry does with a real nixpkgs, and what Nix itself takes for the same attributes.
func (b *bench) nixpkgs(ctx context.Context) error {
	set, err := filepath.EvalSymlinks(b.set)
	if _, statErr := os.Stat(filepath.Join(set, "pkgs", "top-level", "all-packages.nix")); err != nil || statErr != nil {
		return errors.New("SET must be a directory with nixpkgs: make bench GROUP=nixpkgs SET=DIR")
	}
	dir, err := os.MkdirTemp(b.dir, "nixpkgs-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	runner, _ := proc.New()
	evaluator, err := eval.New(ctx, runner, eval.Options{ScratchDir: dir, AllowedURIs: []string{"https://"}})
	if err != nil {
		return err
	}
	if err := b.evaluations(ctx, evaluator, set); err != nil {
		return err
	}
	// Files are edited: in a copy.
	work := filepath.Join(dir, "work")
	if err := command(ctx, "cp", "--archive", set, work).Run(); err != nil {
		return err
	}
	if err := b.pathRevisions(ctx, work, filepath.Join(dir, "paths")); err != nil {
		return err
	}
	return b.channelRevisions(ctx, evaluator, work, dir)
}

// measured is what work costs, in this process and those that it starts.
func measured(work func() error) (cost, error) {
	cpu := func() time.Duration {
		var sum int64
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var usage unix.Rusage
			_ = unix.Getrusage(who, &usage) // it fails for unknown values of who alone
			sum += usage.Utime.Nano() + usage.Stime.Nano()
		}
		return time.Duration(sum)
	}
	before, started := cpu(), time.Now()
	err := work()
	return cost{wall: time.Since(started), cpu: cpu() - before}, err
}

// evaluations compares the registry's evaluation of names with Nix's of the same attributes.
func (b *bench) evaluations(ctx context.Context, evaluator *eval.Evaluator, set string) error {
	bare := func(attributes []string) (cost, error) {
		expression := fmt.Sprintf("let set = import %s { system = \"x86_64-linux\"; config = { }; overlays = [ ]; }; in [ ", set)
		for _, attribute := range attributes {
			expression += "set." + attribute + ".drvPath "
		}
		return measured(func() error {
			out, err := command(ctx, "nix-instantiate", "--eval", "--strict", "--expr", expression+"]").Output()
			if err == nil && strings.Count(string(out), ".drv") != len(attributes) {
				err = fmt.Errorf("evaluating %q: Nix answers %s", attributes, out)
			}
			return err
		})
	}
	ours := func(names []string, exist bool) (cost, error) {
		return measured(func() error {
			results, err := evaluator.Evaluate(ctx, eval.Source{Path: set}, "x86_64-linux", names)
			if fault := (*eval.SourceError)(nil); errors.As(err, &fault) {
				return fmt.Errorf("%w: run it by scripts/with-nix.sh trixie", err)
			}
			for name, result := range results {
				if err == nil && (result.Failure == nil) != exist {
					err = fmt.Errorf("evaluating %s: %+v", name, result)
				}
			}
			return err
		})
	}
	lists := [][]string{twenty}
	for _, name := range twenty[:alone] {
		lists = append(lists, []string{name})
	}
	t := newTable("names", "bare Nix, processor", "the registry", "ratio", "bare Nix, passed", "the registry", "ratio")
	var known []cost // the names alone
	for _, list := range lists {
		title := list[0]
		if len(list) > 1 {
			title = fmt.Sprintf("%d names", len(list))
		}
		b.progress("evaluating %s", title)
		var theirs, own []cost
		for range b.runs {
			one, err := bare(list)
			if err != nil {
				return err
			}
			two, err := ours(list, true)
			if err != nil {
				return err
			}
			theirs, own = append(theirs, one), append(own, two)
		}
		ratio := ratios(own, theirs, cpuRatio)
		t.row(title, medianOf(theirs, cost.cpuTime), medianOf(own, cost.cpuTime), ratio, medianOf(theirs, cost.time), medianOf(own, cost.time), ratios(own, theirs, wallRatio))
		b.aim("evaluation of "+title+", processor time against bare Nix", ratio, 1.1, "%.2f")
		if len(list) == 1 {
			known = append(known, own...)
		}
	}
	var mistyped []cost
	for range b.runs {
		one, err := ours([]string{typo}, false)
		if err != nil {
			return err
		}
		mistyped = append(mistyped, one)
	}
	ratio := float64(medianOf(mistyped, cost.cpuTime)) / float64(medianOf(known, cost.cpuTime))
	t.row("a typo, to the median name", medianOf(known, cost.cpuTime), medianOf(mistyped, cost.cpuTime), ratio, medianOf(known, cost.time), medianOf(mistyped, cost.time), "")
	b.aim("evaluation of a typo, processor time against a name that exists", ratio, 1.2, "%.2f")
	fmt.Fprintln(b.out, t)
	return nil
}

// pathRevisions edits a set in a path.
func (b *bench) pathRevisions(ctx context.Context, set, copies string) error {
	path, err := source.NewPath(source.NewWatches(), set, copies)
	if err != nil {
		return err
	}
	t := newTable("packages.path", "passed", "processor", "more on disk")
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"first pull: everything is copied", func() error { return nil }},
		{"pull again", func() error { return nil }},
		{"after an edit of one file", func() error { return appendTo(filepath.Join(set, "pkgs", "top-level", "all-packages.nix")) }},
	} {
		b.progress("path: %s", step.name)
		before, err := onDisk(ctx, copies)
		if err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return err
		}
		pinned, err := measured(func() error { _, err := path.Pin(ctx, source.Latest); return err })
		if err != nil {
			return err
		}
		after, err := onDisk(ctx, copies)
		if err != nil {
			return err
		}
		t.row(step.name, pinned.wall, pinned.cpu, megabytes(after-before))
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// channelRevisions serves a set as a channel that moves once.
func (b *bench) channelRevisions(ctx context.Context, evaluator *eval.Evaluator, set, dir string) error {
	mirror := filepath.Join(dir, "mirror")
	if err := os.MkdirAll(filepath.Join(mirror, channelName), 0o755); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(mirror)), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	url := "http://" + listener.Addr().String()
	channel, err := source.NewChannel(source.ChannelOptions{Name: channelName, Channels: url, Archives: url, Dir: filepath.Join(dir, "channels"), Refresh: time.Nanosecond})
	if err != nil {
		return err
	}
	t := newTable("packages.channel", "archive to tree, passed", "processor", "ten names evaluated, passed", "processor")
	for i, step := range []string{"first pull", "after a move that changes one file"} {
		revision := strings.Repeat(fmt.Sprint(i), 40)
		b.progress("channel: making an archive")
		if err := errors.Join(
			appendTo(filepath.Join(set, "pkgs", "top-level", "all-packages.nix")),
			command(ctx, "tar", "--create", "--gzip", "--file", filepath.Join(mirror, revision+".tar.gz"), "--directory", filepath.Dir(set), filepath.Base(set)).Run(),
			os.WriteFile(filepath.Join(mirror, channelName, "git-revision"), []byte(revision), 0o644),
		); err != nil {
			return err
		}
		b.progress("channel: %s", step)
		var pinned source.Pinned
		tree, err := measured(func() (err error) { pinned, err = channel.Pin(ctx, source.Latest); return err })
		if err != nil {
			return err
		}
		names, err := measured(func() error {
			_, err := evaluator.Evaluate(ctx, eval.Source{Path: pinned.Path}, "x86_64-linux", twenty[:10])
			return err
		})
		if err != nil {
			return err
		}
		t.row(step, tree.wall, tree.cpu, names.wall, names.cpu)
		if i > 0 {
			b.aim("ten names after a channel has moved, s from when its files are there", names.wall.Seconds(), 1, "%.2f")
		}
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// appendTo changes a file of Nix expressions, and not what it means.
func appendTo(name string) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString("# edited\n")
	return errors.Join(err, file.Close())
}

// onDisk is what a directory takes on the disk, in bytes; none: nothing.
func onDisk(ctx context.Context, dir string) (bytes int64, err error) {
	if _, err := os.Stat(dir); err != nil {
		return 0, nil //nolint:nilerr // it is made later
	}
	out, err := command(ctx, "du", "--summarize", "--block-size=1", dir).Output()
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(out), &bytes)
	return bytes, err
}
