package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// registryModule is the stock registry, in the version of go.mod.
const registryModule = "github.com/distribution/distribution/v3/cmd/registry"

type options struct {
	names []string // of images, smallest first
	pulls []string // of images that are pulled whole
	runs  int
	turns int // of a registry in a run, where a turn takes about a second
	peers []peer
	set   string // a directory with nixpkgs, or empty
	dir   string // for all that is written; anyone must be able to read it, as evaluations are nobody's
}

// demoImages are canonical names, as those are where images are stored, of about 50, 270 and 700
// store paths. The last is nearly all that the demo set has.
func demoImages() []string {
	return []string{
		"shell/git",
		"shell/ffmpeg/git/imagemagick",
		"shell/ffmpeg/git/graphviz/haproxy/htop/imagemagick/iperf3/iproute2/lighttpd/mtr/nodepackages.npm/" +
			"openssh/procps/python3/rsync/ruby/tcl/tcpdump/tmux/util-linux/vim/w3m/wget",
	}
}

// pulledImages are names of about 40 layers and 95, of which the registry makes no more.
func pulledImages() []string { return []string{"shell/git/htop/openssh", "shell/ffmpeg/git/openssh"} }

// An image is a name with what its closure is.
type image struct {
	name    string
	paths   []string // sorted
	list    string   // a file with the paths, relative to /
	tarSize int64    // bytes of a plain tar of them
}

func (i image) String() string {
	return fmt.Sprintf("%d paths, %s", len(i.paths), megabytes(i.tarSize))
}

// bench is what the groups share. They run one after the other.
type bench struct {
	options
	out     io.Writer
	root    string // of the checkout
	images  []image
	targets []target
	lock    *os.File // held until the process ends
}

// newBench builds both registries, makes sure that the packages of the images are in the Nix store
// and evaluated, and prints what is measured where. One at a time can have the directory.
func newBench(ctx context.Context, out io.Writer, o options) (*bench, error) {
	module, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("looking for the checkout: %w", err)
	}
	b := &bench{options: o, out: out, root: filepath.Dir(strings.TrimSpace(string(module)))}
	b.dir = cmp.Or(o.dir, filepath.Join(b.root, "build", "bench"))
	if _, err := os.Stat(b.demo()); err != nil {
		return nil, fmt.Errorf("%w: run `make demo` first", err)
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	if b.lock, err = os.Create(filepath.Join(b.dir, "lock")); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(b.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s is in use: wait for the other measurement to end", b.dir)
	}
	for program, what := range map[string]string{b.program(): "./cmd/registry", b.stock(): registryModule} {
		b.progress("building %s", what)
		build := exec.CommandContext(ctx, "go", "build", "-o", program, what)
		build.Dir = b.root
		if text, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w\n%s", what, err, text)
		}
	}
	if err := b.prepare(ctx); err != nil {
		return nil, fmt.Errorf("preparing the images: %w", err)
	}
	return b, b.printMachine(ctx)
}

func (b *bench) program() string { return filepath.Join(b.dir, "registry") }
func (b *bench) stock() string   { return filepath.Join(b.dir, "stock-registry") }
func (b *bench) demo() string    { return filepath.Join(b.root, "build", "demo") }

// prepare pulls each image once, so that Nix has built it and the registry remembers its
// evaluation, and learns the closures.
func (b *bench) prepare(ctx context.Context) error {
	if err := b.empty(); err != nil && !errors.Is(err, fs.ErrNotExist) { // the first time, there is nothing
		return err
	}
	s, err := b.start(ctx, settings{compression: "none"})
	if err != nil {
		return err
	}
	defer s.stop()
	for i, name := range b.names {
		b.progress("preparing %s (the first time, Nix builds it)", name)
		m, err := s.pull(ctx, name)
		if err != nil {
			return err
		}
		img := image{name: name, list: filepath.Join(b.dir, fmt.Sprintf("image-%d", i))}
		if img.paths, err = s.closure(ctx, name, m); err != nil {
			return err
		}
		var lines strings.Builder
		for _, path := range img.paths {
			fmt.Fprintln(&lines, strings.TrimPrefix(path, "/"))
		}
		if err := os.WriteFile(img.list, []byte(lines.String()), 0o644); err != nil {
			return err
		}
		plain, err := b.piped(ctx, img, "cat")
		if err != nil {
			return err
		}
		img.tarSize = plain.bytes
		b.images = append(b.images, img)
	}
	return nil
}

func (b *bench) largest() image { return b.images[len(b.images)-1] }

// progress tells who waits what is done now.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: %s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// printMachine says what the figures hold for.
func (b *bench) printMachine(ctx context.Context) error {
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return err
	}
	say := func(name string, args ...string) string { // what a command says, or that it can't
		command := exec.CommandContext(ctx, name, args...)
		command.Dir = b.root
		text, err := command.Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(text))
	}
	fmt.Fprintf(
		b.out,
		"Measured %s at commit %s: %s, %d cores, %s; Linux %s; %s on %s; %s; %s; load %s when it began. Medians of %d runs.\n",
		time.Now().UTC().Format(time.DateOnly), say("git", "describe", "--always", "--dirty"),
		field("/proc/cpuinfo", "model name"), runtime.NumCPU(), field("/proc/meminfo", "MemTotal"),
		unix.ByteSliceToString(kernel.Release[:]), say("findmnt", "-no", "FSTYPE", "--target", b.dir),
		disk(b.dir), say("nix", "--version"), runtime.Version(), load(), b.runs,
	)
	if len(b.images) == 0 {
		fmt.Fprintln(b.out)
		return nil
	}
	fmt.Fprint(b.out, "\n| image | store paths | as a tar | name |\n|---|---|---|---|\n")
	for _, i := range b.images {
		fmt.Fprintf(b.out, "| %s | %d | %s | `%s` |\n", i, len(i.paths), megabytes(i.tarSize), i.name)
	}
	fmt.Fprintln(b.out)
	return nil
}

// field is the value of a line "NAME: VALUE" of a file below /proc.
func field(file, name string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return "unknown " + name
	}
	for line := range bytes.Lines(content) {
		key, value, ok := strings.Cut(string(line), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown " + name
}

func load() string {
	content, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(content), " ")
	return cmp.Or(first, "unknown")
}

// disk is what kind of device holds a directory, as far as the kernel knows.
func disk(dir string) string {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return "an unknown disk"
	}
	device := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	for _, queue := range []string{device + "/queue", device + "/../queue"} { // a partition's is its disk's
		if rotational, err := os.ReadFile(queue + "/rotational"); err == nil {
			name, _ := filepath.EvalSymlinks(device)
			kind := map[string]string{"0": "not rotating", "1": "rotating"}[strings.TrimSpace(string(rotational))]
			return fmt.Sprintf("%s (%s)", filepath.Base(name), kind)
		}
	}
	return "an unknown disk"
}

// A target is something to be reached, on two cores.
type target struct {
	what, want, got string
	reached         bool
}

// aim compares what was measured with what is wanted, which may be reached with equality.
func (b *bench) aim(what string, got, most float64, format string) {
	b.targets = append(b.targets, target{what, "≤ " + fmt.Sprintf(format, most), fmt.Sprintf(format, got), got <= most})
}

// aimLeast is aim where more is better.
func (b *bench) aimLeast(what string, got, least float64, format string) {
	b.targets = append(
		b.targets, target{what, "≥ " + fmt.Sprintf(format, least), fmt.Sprintf(format, got), got >= least},
	)
}

func (b *bench) printTargets() {
	if len(b.targets) == 0 {
		return
	}
	t := newTable("target, on two cores", "wanted", "measured", "")
	for _, target := range b.targets {
		t.row(
			target.what, target.want, target.got,
			map[bool]string{true: "reached", false: "**not reached**"}[target.reached],
		)
	}
	fmt.Fprintf(b.out, "## targets\n\n%s", t)
}
