package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cost is what something took.
type cost struct {
	wall, cpu time.Duration // cpu is user and system time of all processes
	bytes     int64         // what came out
	layers    int           // of an image
}

func (c cost) time() time.Duration    { return c.wall }
func (c cost) cpuTime() time.Duration { return c.cpu }

// What of one is how often that of another. Processor time comes in steps.
func wallRatio(a, b cost) float64  { return a.wall.Seconds() / b.wall.Seconds() }
func cpuRatio(a, b cost) float64   { return a.cpu.Seconds() / max(b.cpu, time.Millisecond).Seconds() }
func bytesRatio(a, b cost) float64 { return float64(a.bytes) / float64(b.bytes) }

// tar writes the store paths of an image to its stdout.
func tar(ctx context.Context, img image) *exec.Cmd {
	return command(ctx, "tar", "--create", "--file=-", "--directory=/", "--sort=name", "--files-from="+img.list)
}

// command is one that ends with the context, and whose stderr is the user's.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Stderr = os.Stderr
	c.WaitDelay = time.Second
	return c
}

// toolName is how a command is shown.
func toolName(tool []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(tool), func(arg string) bool { return arg == "-q" }), " ")
}

// piped runs `tar | TOOL` and counts what comes out, which is not kept.
func (b *bench) piped(ctx context.Context, img image, tool ...string) (cost, error) {
	started := time.Now()
	from, to := tar(ctx, img), command(ctx, tool[0], tool[1:]...)
	between, err := from.StdoutPipe()
	if err != nil {
		return cost{}, err
	}
	to.Stdin = between
	out, err := to.StdoutPipe()
	if err != nil {
		return cost{}, err
	}
	for _, c := range []*exec.Cmd{from, to} {
		if err := c.Start(); err != nil {
			return cost{}, err
		}
	}
	between.Close() // the tool has its own
	n, err := io.Copy(io.Discard, out)
	for _, c := range []*exec.Cmd{to, from} {
		if waitErr := c.Wait(); waitErr != nil && err == nil {
			err = fmt.Errorf("%s: %w", strings.Join(c.Args, " "), waitErr)
		}
	}
	if err != nil {
		return cost{}, err
	}
	return cost{wall: time.Since(started), cpu: spent(from) + spent(to), bytes: n}, nil
}

func spent(c *exec.Cmd) time.Duration { return c.ProcessState.UserTime() + c.ProcessState.SystemTime() }

// writtenAndHashed writes the tar to the disk that storage is on, waits until it is there, and then
// hashes it once.
func (b *bench) writtenAndHashed(ctx context.Context, img image) (cost, error) {
	before := own()
	started := time.Now()
	file, err := os.Create(filepath.Join(b.dir, "closure.tar"))
	if err != nil {
		return cost{}, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	writing := tar(ctx, img)
	writing.Stdout = file
	if err := writing.Run(); err != nil {
		return cost{}, fmt.Errorf("tar: %w", err)
	}
	if err := file.Sync(); err != nil { // as the registry does
		return cost{}, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return cost{}, err
	}
	hash := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{hash}, struct{ io.Reader }{file}, make([]byte, 1<<20))
	if err != nil {
		return cost{}, err
	}
	return cost{wall: time.Since(started), cpu: own() - before + spent(writing), bytes: n}, nil
}

// own is the processor time of this process.
func own() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// timed runs a command that must succeed. What it writes to stdout is counted.
func timed(ctx context.Context, name string, args ...string) (cost, error) {
	c := command(ctx, name, args...)
	var n counter
	c.Stdout = &n
	started := time.Now()
	if err := c.Run(); err != nil {
		return cost{}, fmt.Errorf("%s: %w", strings.Join(c.Args, " "), err)
	}
	return cost{wall: time.Since(started), cpu: spent(c), bytes: int64(n)}, nil
}

type counter int64

func (n *counter) Write(p []byte) (int, error) {
	*n += counter(len(p))
	return len(p), nil
}
