package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/eval"
	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// twenty are attributes that every nixpkgs has. The first ones are also measured alone, and half of
// them when a channel moves.
var twenty = []string{
	"hello", "wget", "ripgrep", "jq", "python3Packages.requests", "git", "curl", "openssl", "nodejs", "go",
	"python3", "tmux", "vim", "nginx", "redis", "postgresql", "ffmpeg", "sqlite", "ruby", "rsync",
}

const (
	alone = 5
	typo  = "ripgerp"

	channelName = "nixos-26.05"
)

// nixpkgs measures what the registry does with a real nixpkgs, and what Nix itself takes for the
// same attributes.
func (b *bench) nixpkgs(ctx context.Context) error {
	set, err := filepath.EvalSymlinks(b.set)
	if _, statErr := os.Stat(filepath.Join(set, "pkgs", "top-level", "all-packages.nix")); err != nil ||
		statErr != nil {
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
	if err := b.evaluates(ctx, evaluator, set); err != nil {
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
	if err := b.channelRevisions(ctx, work, dir); err != nil {
		return err
	}
	return b.followedChannel(ctx, work, dir)
}

// evaluates tells in a line what is wrong where Nix can't evaluate the set. It is asked before bare
// Nix is, which would say so in twenty.
func (b *bench) evaluates(ctx context.Context, evaluator *eval.Evaluator, set string) error {
	_, err := evaluator.Evaluate(ctx, eval.Source{Path: set}, "x86_64-linux", twenty[:1])
	if fault := (*eval.SourceError)(nil); errors.As(err, &fault) && fault.Setup {
		return fmt.Errorf("%w: run it by scripts/with-nix.sh trixie", err)
	}
	return err
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
		expression := fmt.Sprintf(
			"let set = import %s { system = \"x86_64-linux\"; config = { }; overlays = [ ]; }; in [ ", set,
		)
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
		t.row(
			title, medianOf(theirs, cost.cpuTime), medianOf(own, cost.cpuTime), ratio,
			medianOf(theirs, cost.time), medianOf(own, cost.time), ratios(own, theirs, wallRatio),
		)
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
	t.row(
		"a typo, to the median name", medianOf(known, cost.cpuTime), medianOf(mistyped, cost.cpuTime), ratio,
		medianOf(known, cost.time), medianOf(mistyped, cost.time), "",
	)
	b.aim("evaluation of a typo, processor time against a name that exists", ratio, 1.2, "%.2f")
	fmt.Fprintln(b.out, t)
	return nil
}

// pathRevisions edits a set in a path.
func (b *bench) pathRevisions(ctx context.Context, set, copies string) error {
	path, err := source.NewPath(source.NewWatches(), set, copies, 0)
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
		{
			"after an edit of one file",
			func() error { return appendTo(filepath.Join(set, "pkgs", "top-level", "all-packages.nix")) },
		},
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

// A mirror serves a set as a channel that moves.
type mirror struct {
	set, dir, url string
	perSecond     int           // bytes of an archive; 0: as fast as it goes
	sent          chan struct{} // has a token when an archive has been sent

	mu       sync.Mutex
	revision string
	server   *http.Server
}

func newMirror(set, dir string) (*mirror, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &mirror{set: set, dir: dir, url: "http://" + listener.Addr().String(), sent: make(chan struct{}, 1)}
	m.server = &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	go func() { _ = m.server.Serve(listener) }()
	return m, nil
}

// move changes one file of the set, and has the channel stand for what there is then.
func (m *mirror) move(ctx context.Context) (revision string, err error) {
	commit := make([]byte, 20)
	_, _ = rand.Read(commit) // it never fails
	revision = hex.EncodeToString(commit)
	if err := errors.Join(
		appendTo(filepath.Join(m.set, "pkgs", "top-level", "all-packages.nix")),
		command(
			ctx, "tar", "--create", "--gzip", "--file", m.archive(revision),
			"--directory", filepath.Dir(m.set), filepath.Base(m.set),
		).Run(),
	); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision = revision
	return revision, nil
}

func (m *mirror) archive(revision string) string { return filepath.Join(m.dir, revision+".tar.gz") }

func (m *mirror) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	m.mu.Lock()
	revision := m.revision
	m.mu.Unlock()
	if request.URL.Path == "/"+channelName+"/git-revision" {
		fmt.Fprintln(w, revision)
		return
	}
	content, err := os.ReadFile(m.archive(revision))
	if err != nil || request.URL.Path != "/"+filepath.Base(m.archive(revision)) {
		http.NotFound(w, request)
		return
	}
	const piece = 1 << 18
	begun := time.Now()
	for i := 0; i < len(content); i += piece {
		if m.perSecond > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(i) * time.Second / time.Duration(m.perSecond))))
		}
		if _, err := w.Write(content[i:min(i+piece, len(content))]); err != nil {
			return
		}
	}
	m.sent <- struct{}{}
}

// channelRevisions unpacks a channel, which then moves. The first archive is also unpacked by tar,
// and nothing is removed before the end: for minutes after that, ext4 takes several times as long
// to make files, since it passes over what was freed lately.
func (b *bench) channelRevisions(ctx context.Context, set, dir string) error {
	m, err := newMirror(set, dir)
	if err != nil {
		return err
	}
	defer m.server.Close()
	trees := filepath.Join(dir, "channels")
	channel, err := source.NewChannel(
		source.ChannelOptions{
			Name:     channelName,
			Channels: m.url,
			Archives: m.url,
			Dir:      trees,
			Refresh:  time.Nanosecond,
		},
	)
	if err != nil {
		return err
	}
	// pin is how long it takes from the request to the tree, and how much more is on the disk.
	pin := func() (c cost, err error) {
		before, err := onDisk(ctx, trees)
		if err != nil {
			return cost{}, err
		}
		if c, err = measured(func() error { _, err := channel.Pin(ctx, source.Latest); return err }); err != nil {
			return cost{}, err
		}
		<-m.sent
		after, err := onDisk(ctx, trees)
		c.bytes = after - before
		return c, err
	}
	t := newTable(
		"packages.channel", "archive to tree, passed", "processor", "more on disk", "tar --extract, passed",
		"processor",
	)
	b.progress("channel: first pull")
	revision, err := m.move(ctx)
	if err != nil {
		return err
	}
	first, err := pin()
	if err != nil {
		return err
	}
	plain := filepath.Join(dir, "plain")
	if err := os.Mkdir(plain, 0o755); err != nil {
		return err
	}
	tar, err := measured(func() error {
		return command(ctx, "tar", "--extract", "--file", m.archive(revision), "--directory", plain).Run()
	})
	if err != nil {
		return err
	}
	t.row("first pull", first.wall, first.cpu, megabytes(first.bytes), tar.wall, tar.cpu)
	var moves []cost
	for range b.runs {
		b.progress("channel: after a move that changes one file")
		if _, err := m.move(ctx); err != nil {
			return err
		}
		next, err := pin()
		if err != nil {
			return err
		}
		moves = append(moves, next)
	}
	t.row("after a move that changes one file", medianOf(moves, cost.time), medianOf(moves, cost.cpuTime),
		megabytes(medianOf(moves, func(c cost) int64 { return c.bytes })), "–", "–")
	fmt.Fprintln(b.out, t)
	return nil
}

// followedChannel has the registry itself follow a channel, of which ten names were asked for
// lately: how long after the last byte of an archive has been sent are they known of the new
// revision, before anybody asks?
func (b *bench) followedChannel(ctx context.Context, set, dir string) error {
	t := newTable(
		"the archive comes at",
		"from its last byte, until it is unpacked and the names pulled last are evaluated",
		"processor of all, download included",
	)
	for _, perSecond := range []int{0, 20e6} {
		speed := "loopback's speed"
		if perSecond > 0 {
			speed = megabytes(int64(perSecond)) + "/s"
		}
		b.progress("channel: the registry follows it, at %s", speed)
		all, err := b.follow(ctx, set, dir, perSecond)
		if err != nil {
			return err
		}
		t.row(speed, medianOf(all, cost.time), medianOf(all, cost.cpuTime))
		if perSecond > 0 {
			b.aim(
				"the names pulled last, after a channel has moved, s from the last byte of an archive at "+speed,
				medianOf(all, cost.time).Seconds(), 1, "%.2f",
			)
		}
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// follow measures as many moves as there are runs.
func (b *bench) follow(ctx context.Context, set, dir string, perSecond int) (all []cost, err error) {
	m, err := newMirror(set, dir)
	if err != nil {
		return nil, err
	}
	defer m.server.Close()
	own := *b // with a cache and a storage that nothing is in
	if own.dir, err = os.MkdirTemp(dir, "registry-"); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(own.dir, 0o755), os.Symlink(b.program(), own.program())); err != nil {
		return nil, err
	}
	m.perSecond = perSecond
	if _, err := m.move(ctx); err != nil {
		return nil, err
	}
	s, err := own.start(
		ctx,
		settings{
			packages: map[string]any{"channel": channelName, "channels": m.url, "archives": m.url},
			refresh:  time.Second,
		},
	)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	<-m.sent
	for _, name := range twenty[:10] {
		// Evaluated with the other, which keeps it from being built.
		if _, _, err := s.get(ctx, "/v2/"+strings.ToLower(name)+"/"+absent+"/manifests/latest"); err != nil {
			return nil, err
		}
	}
	for range b.runs {
		before, err := s.usage()
		if err != nil {
			return nil, err
		}
		revision, err := m.move(ctx)
		if err != nil {
			return nil, err
		}
		select {
		case <-m.sent:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		sent := time.Now()
		for known := false; !known; time.Sleep(time.Millisecond) {
			if time.Since(sent) > startTime {
				return nil, fmt.Errorf("the registry has not followed the channel: see %s", s.log)
			}
			log, err := os.ReadFile(s.log)
			if err != nil {
				return nil, err
			}
			known = strings.Contains(string(log), " at "+revision)
		}
		c := cost{wall: time.Since(sent)}
		after, err := s.usage()
		if err != nil {
			return nil, err
		}
		c.cpu = after.cpu - before.cpu
		all = append(all, c)
	}
	return all, nil
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
