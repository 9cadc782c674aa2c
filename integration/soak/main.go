// Soak has many clients use a registry for a while, as a day's load in an hour, and looks whether it
// stays as it was:
//
//	make soak MINUTES=60
//
// It serves a copy of the demo set (examples/debian) with build/registry on loopback. Clients pull
// what is stored, by tags and digests, and new combinations, other spellings and names that nobody
// has; they push, delete and list tags, read slowly, and leave. Once a minute the package set is
// edited, so that revisions come and go. A line for each minute says what the registry takes. At the
// end clients stop, and it fails if goroutines or open files have not come back to where they were
// after the first clients, or if the registry has panicked. All that it writes is below build/soak.
//
//   - main.go: the course of it
//   - registry.go: a registry's life, and what it takes
//   - clients.go: what clients do
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// settleTime is how long goroutines and files may take to come back.
	settleTime = 2 * time.Minute
	// settlePause is how long the registry has to end connections.
	settlePause = 2 * time.Second
	// tolerance is by how many they may differ: connections that are idle, for example.
	tolerance = 10
	// warmUp is how long the first clients are there. They leave the registry as it should be again.
	warmUp = 20 * time.Second
	// revisions is how many texts the package set alternates between; every other edit is a new one.
	revisions = 5
)

func main() {
	minutes := flag.Float64("minutes", 60, "how long")
	clients := flag.Int("clients", 12, "how many at a time")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of what clients choose")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Printf("seed %d, %d clients, %v minutes\n", *seed, *clients, *minutes)
	if err := soak(ctx, time.Duration(*minutes*float64(time.Minute)), *clients, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func soak(ctx context.Context, length time.Duration, clients int, seed uint64) error {
	dir, err := filepath.Abs("build/soak")
	if err != nil {
		return err
	}
	r, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer r.stop()
	l := newLoad(r.addr)
	row := func(when string) usage {
		u := r.usage(ctx)
		fmt.Printf("%-8s %s %s\n", when, u, l.counts())
		return u
	}
	fmt.Printf("%-8s %s %s\n", "minute", usageHeader, countsHeader)
	row("start")
	l.run(ctx, warmUp, clients, seed)
	l.http.CloseIdleConnections()
	time.Sleep(settlePause)
	level := row("level")

	done := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() { edit(ctx, done, r.set, seed) })
	beside.Go(func() {
		for minute := 1; ; minute++ {
			select {
			case <-time.After(time.Minute):
				row(fmt.Sprint(minute))
			case <-done:
				return
			}
		}
	})
	l.run(ctx, length, clients, seed+1)
	close(done)
	beside.Wait()
	row("busy")

	l.http.CloseIdleConnections()
	var now usage
	for until := time.Now().Add(settleTime); time.Now().Before(until) && ctx.Err() == nil; time.Sleep(time.Second) {
		if now = r.usage(ctx); now.within(level) {
			break
		}
	}
	row("end")
	log, err := os.ReadFile(r.log)
	if err == nil && strings.Contains(string(log), "panic") {
		err = fmt.Errorf("there is a panic in %s", r.log)
	}
	if !now.within(level) {
		err = errors.Join(err, fmt.Errorf("goroutines or files did not come back: %d and %d, they were %d and %d",
			now.goroutines, now.files, level.goroutines, level.files))
	}
	return errors.Join(err, ctx.Err())
}

// edit changes the package set once a minute, until done.
func edit(ctx context.Context, done <-chan struct{}, set string, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 2))
	file := filepath.Join(set, "default.nix")
	text, err := os.ReadFile(file)
	for n := 0; err == nil; n++ {
		select {
		case <-time.After(time.Minute):
		case <-done:
			return
		case <-ctx.Done():
			return
		}
		note := n
		if n%2 == 0 {
			note = -random.IntN(revisions) // one that was there before
		}
		err = os.WriteFile(file, fmt.Appendf(nil, "%s\n# edit %d\n", text, note), 0o644)
	}
	fmt.Fprintln(os.Stderr, "soak: editing the package set:", err)
}
